"""An index and an audit as lines for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from toolkit.data.audit import AuditReport
from toolkit.data.audit_json import summary
from toolkit.data.index import Index, printable

_COUNTS = ("images", "patients", "unreadable", "exact_pairs", "near_pairs", "pairs_with_two_labels")


def index_lines(index: Index) -> Iterator[str]:
    """How many X-rays of how many patients, and how many of each label in each split."""
    yield f"{len(index)} X-rays of {len({row.patient_id for row in index})} patients"
    for (split, label), n in sorted(Counter((row.split, row.label) for row in index).items()):
        yield f"  {split or 'no split yet':12} {printable(label):12} {n}"


def audit_lines(report: AuditReport) -> Iterator[str]:
    """Counts, shortcuts from the strongest, shared patients, and what the reader must know."""
    counts = summary(report)
    for key in _COUNTS:
        yield f"{key.replace('_', ' '):22}{counts[key]}"
    if report.shortcuts:
        yield "how well one attribute of the file alone separates the labels (AUROC; 0.5 is nothing)"
    for shortcut in sorted(report.shortcuts, key=lambda s: -s.auroc):
        name = f"  {shortcut.attribute.replace('_', ' ')}"
        yield f"{name:22}{shortcut.in_words()}"
    shared = [overlap for overlap in report.overlaps if overlap.patients]
    for overlap in shared:
        patients = f"{len(overlap.patients)} shared patients ({overlap.in_words()})"
        yield f"{' and '.join(overlap.splits)}, by {overlap.grouping}: {patients}"
    if report.overlaps and not shared:
        yield "no patient is in two splits"
    yield from dict.fromkeys((*(overlap.note for overlap in shared if overlap.note), *report.notes))
