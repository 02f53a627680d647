"""The audit as JSON, schema 1."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.data.audit import AuditReport, Pair
    from toolkit.data.index import Xray

SCHEMA = 1


def report_json(report: AuditReport, *, notice: str) -> str:
    """The whole report as JSON text. File names that are not UTF-8 are escaped, not lost."""
    return json.dumps(report_dict(report, notice=notice), indent=2) + "\n"


def report_dict(report: AuditReport, *, notice: str) -> dict[str, Any]:
    """The whole report as plain values."""
    return {
        "schema": SCHEMA,
        "kind": "cxr-edge-audit",
        "notice": notice,
        "leaks": report.leaks,
        "leak_reasons": report.leak_reasons(),
        "summary": summary(report),
        "notes": list(report.notes),
        "patient_overlaps": [asdict(overlap) for overlap in report.overlaps],
        "pairs": [_pair(pair) for pair in report.pairs],
        "unreadable": [{**_xray(row), "reason": reason} for row, reason in report.unreadable],
        "shortcuts": [asdict(shortcut) for shortcut in report.shortcuts],
        "near_search": asdict(report.near_search),
    }


def summary(report: AuditReport) -> dict[str, Any]:
    """The counts that the head of a report shows."""
    index = report.index
    splits = Counter((row.split, row.label) for row in index)
    return {
        "images": len(index),
        "patients": len({row.patient_id for row in index}),
        "labels": dict(sorted(Counter(row.label for row in index).items())),
        "splits": {f"{split or 'none'}/{label}": n for (split, label), n in sorted(splits.items())},
        "fingerprint": index.fingerprint(),
        "unreadable": len(report.unreadable),
        "exact_pairs": sum(pair.kind == "exact" for pair in report.pairs),
        "near_pairs": sum(pair.kind == "near" for pair in report.pairs),
        "pairs_across_splits": sum(pair.across_splits for pair in report.pairs),
        "pairs_across_patients": sum(pair.across_patients for pair in report.pairs),
        "pairs_with_two_labels": len(report.contradictions),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "kind": pair.kind,
        "similarity": pair.similarity,
        "across_splits": pair.across_splits,
        "across_labels": pair.across_labels,
        "across_patients": pair.across_patients,
        "a": _xray(pair.a),
        "b": _xray(pair.b),
    }


def _xray(row: Xray) -> dict[str, str]:
    return {"path": str(row.path), "label": row.label, "patient_id": row.patient_id, "split": row.split}
