"""Look for what makes a good figure worthless: the same picture or patient on both sides of a split, and shortcuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np

from firmware_bridge.result import NOTICE
from toolkit.data.audit_json import report_json
from toolkit.data.index import Index, Xray
from toolkit.data.near_duplicates import NearDuplicate, find_candidates, perceptual_hashes, verify
from toolkit.data.patients import PatientOverlap, patient_overlaps
from toolkit.data.scan import Scanned, scan
from toolkit.data.shortcuts import ATTRIBUTES, attribute_aurocs, cannot_vary
from toolkit.progress import progress

# Of more copies than this, each is paired with the first only: a thousand would be half a million pairs.
_ALL_PAIRS_UP_TO = 20
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Pair:
    """The same picture twice.

    Attributes:
        kind: "exact" (the same bytes) or "near" (verified on pixels).
        a: the one.
        b: the other.
        similarity: 1 for exact.
    """

    kind: str
    a: Xray
    b: Xray
    similarity: float

    @property
    def across_splits(self) -> bool:
        """Whether two splits share the picture."""
        return bool(self.a.split and self.b.split and self.a.split != self.b.split)

    @property
    def across_labels(self) -> bool:
        """Whether the picture has two labels."""
        return self.a.label != self.b.label

    @property
    def across_patients(self) -> bool:
        """Whether the picture has two patients, so that a split by patients may part it."""
        return self.a.patient_id != self.b.patient_id


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well one attribute of the file alone tells a label from the others.

    Attributes:
        attribute: as in `shortcuts.ATTRIBUTES`.
        label: which.
        auroc: 0.5 or more, whichever way it points.
        low: of the 95% interval (patients resampled).
        high: likewise.
        images: on how many X-rays.
    """

    attribute: str
    label: str
    auroc: float
    low: float
    high: float
    images: int

    def in_words(self, *, interval: bool = False) -> str:
        """The AUROC, where asked with its interval; "-" where every file has the same of it."""
        if cannot_vary(self.auroc, self.low, self.high):
            return "-"
        return f"{self.auroc:.3f} ({self.low:.3f} to {self.high:.3f})" if interval else f"{self.auroc:.3f}"


@dataclass(frozen=True, slots=True)
class NearSearch:
    """What the search for near duplicates cost: pairs of hashes compared, of all pairs, and pairs seen on pixels."""

    pictures: int
    compared: int
    all_pairs: int
    candidates: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit found.

    Attributes:
        index: what was looked at.
        unreadable: X-rays that cannot be decoded, with the reason.
        pairs: the same picture twice, exact ones first.
        overlaps: patients that two splits share, under each way to tell patients apart, also where there are none.
        shortcuts: by attribute.
        near_search: what the search cost.
        notes: what the reader must know.
    """

    index: Index
    unreadable: tuple[tuple[Xray, str], ...]
    pairs: tuple[Pair, ...]
    overlaps: tuple[PatientOverlap, ...]
    shortcuts: tuple[Shortcut, ...]
    near_search: NearSearch
    notes: tuple[str, ...]

    @property
    def leaks(self) -> bool:
        """Whether two splits share a patient, or a picture exactly or nearly."""
        return bool(self.leak_reasons())

    def leak_reasons(self) -> list[str]:
        """Each kind of leak in one line; empty without a leak."""
        reasons = [
            f"{len(overlap.patients)} patients are in both {' and '.join(overlap.splits)} ({overlap.in_words()})"
            for overlap in self.overlaps
            if overlap.decides and overlap.patients
        ]
        found = Counter((pair.kind, *sorted((pair.a.split, pair.b.split))) for pair in self.pairs if pair.across_splits)
        reasons += [f"{n} {kind} duplicate pairs lie across {a} and {b}" for (kind, a, b), n in sorted(found.items())]
        return reasons

    @property
    def contradictions(self) -> tuple[Pair, ...]:
        """One picture with two labels."""
        return tuple(pair for pair in self.pairs if pair.across_labels)

    def same_picture(self) -> tuple[tuple[Path, Path], ...]:
        """Paths of every pair: what `patient_split` must keep together."""
        return tuple((pair.a.path, pair.b.path) for pair in self.pairs)

    def same_pictures(self) -> list[list[Xray]]:
        """The X-rays of each picture that is there twice or more, in the order of the pairs."""
        group_of: dict[Xray, list[Xray]] = {}
        for pair in self.pairs:
            a, b = (group_of.setdefault(row, [row]) for row in (pair.a, pair.b))
            if a is not b:
                a += b
                group_of.update(dict.fromkeys(b, a))
        return list({id(group): group for group in group_of.values()}.values())

    def after_split(self, index: Index) -> AuditReport:
        """The report for the same files with other splits, or for a part of them, without reading them again.

        Args:
            index: as `patient_split` returned it; every path in it must have been audited.
        """
        rows = {row.path: row for row in index}
        pairs = tuple(
            replace(pair, a=rows[pair.a.path], b=rows[pair.b.path])
            for pair in self.pairs
            if pair.a.path in rows and pair.b.path in rows
        )
        unreadable = tuple((rows[row.path], reason) for row, reason in self.unreadable if row.path in rows)
        overlaps = patient_overlaps(index)
        return replace(self, index=index, pairs=pairs, unreadable=unreadable, overlaps=overlaps)

    def to_json(self) -> str:
        """Everything as JSON text, schema 1."""
        return report_json(self, notice=NOTICE)


def audit(index: Index, *, workers: int | None = None) -> AuditReport:
    """Audit an index: read every file once, then compare.

    Takes about 10 kB of memory a picture. Nothing here raises for bad data: what is wrong with it is the report.

    Args:
        index: what to look at.
        workers: threads that read; None: as many as there are processors.
    """
    scanned = tuple(scan(index, workers=workers))
    readable = [one for one in scanned if not one.error]
    groups = _exact_groups(scanned)
    firsts = [group[0] for group in groups if group[0].thumbnail is not None and not group[0].flat]
    near, search = _near(firsts)
    exact = [pair for group in groups for pair in _exact_pairs(group)]
    members = {id(group[0]): group for group in groups}
    pairs = exact + [_near_pair(members[id(firsts[n.a])], members[id(firsts[n.b])], n.similarity) for n in near]
    return AuditReport(
        index=index,
        unreadable=tuple((one.row, one.error) for one in scanned if one.error),
        pairs=tuple(pairs),
        overlaps=patient_overlaps(index),
        shortcuts=_shortcuts(readable),
        near_search=search,
        notes=tuple(_notes(index, readable)),
    )


def _exact_groups(scanned: Sequence[Scanned]) -> list[list[Scanned]]:
    groups: dict[str, list[Scanned]] = {}
    for one in scanned:
        # A damaged file twice is not a duplicate of a picture; it is in the list of the unreadable.
        if one.sha256 and not one.error:
            groups.setdefault(one.sha256, []).append(one)
    return list(groups.values())


def _exact_pairs(group: Sequence[Scanned]) -> list[Pair]:
    rows = [one.row for one in group]
    if len(rows) <= _ALL_PAIRS_UP_TO:
        return [Pair("exact", a, b, 1.0) for a, b in combinations(rows, 2)]
    return [Pair("exact", rows[0], row, 1.0) for row in rows[1:]]


def _near(firsts: Sequence[Scanned]) -> tuple[list[NearDuplicate], NearSearch]:
    n = len(firsts)
    if n < 2:
        return [], NearSearch(n, 0, 0, 0)
    thumbnails = np.stack([one.thumbnail for one in firsts if one.thumbnail is not None])  # (N, 64, 64) uint8
    candidates = find_candidates(perceptual_hashes(thumbnails))
    pairs = ((int(a), int(b)) for a, b in candidates.pairs)
    near = verify(thumbnails, progress(pairs, "comparing pictures", total=len(candidates.pairs)))
    return near, NearSearch(n, candidates.compared, n * (n - 1) // 2, len(candidates.pairs))


def _near_pair(group_a: Sequence[Scanned], group_b: Sequence[Scanned], similarity: float) -> Pair:
    """Of two groups of exact copies, the pair that says most: across splits before across labels before any other."""
    pairs = [Pair("near", a.row, b.row, similarity) for a, b in product(group_a[:100], group_b[:100])]
    return max(pairs, key=lambda pair: (pair.across_splits, pair.across_labels))


def _shortcuts(readable: Sequence[Scanned]) -> tuple[Shortcut, ...]:
    labels = sorted({one.row.label for one in readable})
    if len(labels) < 2:
        return ()
    # With two classes one direction says it all; by name the later one ("pneumonia" after "normal").
    asked = labels[1:] if len(labels) == 2 else labels
    known_size = {one.row.source for one in readable if one.row.width_px}
    found = []
    for i, name in enumerate(ATTRIBUTES):
        # Where a source tells the original sizes, a file without one has only the size of its copy: another quantity.
        on_size = name in ("width", "height", "aspect")
        used = [one for one in readable if not on_size or one.row.width_px or one.row.source not in known_size]
        values = [float(one.attributes[i]) for one in used if one.attributes is not None]
        patients = [one.row.patient_id for one in used]
        for label in asked:
            positive = [int(one.row.label == label) for one in used]
            if 0 < sum(positive) < len(positive):
                interval = attribute_aurocs(positive, {name: values}, patients, resamples=_RESAMPLES)[name]
                found.append(Shortcut(name, label, interval.value, interval.low, interval.high, len(used)))
    return tuple(found)


def _notes(index: Index, readable: Sequence[Scanned]) -> list[str]:
    notes = []
    if len(index.labels()) < 2:
        notes.append("There is one class only: shortcuts cannot be looked for, and nothing can be learnt.")
    if len(index) > 1 and all(row.patient_id == row.path.stem for row in index):
        notes.append("Every X-ray counts as a patient of its own (its file name): shared patients cannot be found.")
    flat = [one for one in readable if one.flat]
    if flat:
        notes.append(f"{len(flat)} pictures show nothing (one grey level), for example {flat[0].row.path.name}.")
    sizes = Counter(one.size_px for one in readable)
    if len(readable) > 1 and len(sizes) == 1 and not any(one.row.width_px for one in readable):
        notes.append("All files have one size and the index tells no other: width, height and aspect can show nothing.")
    return notes
