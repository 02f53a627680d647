"""The audit as files: `audit.json` for programs and `audit.html` for people, with the picture pairs side by side."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import cv2

from firmware_bridge.decode import decode
from firmware_bridge.errors import ImageError
from firmware_bridge.result import NOTICE
from toolkit.data.audit import AuditReport, Pair
from toolkit.data.audit_json import summary
from toolkit.data.index import Xray, printable
from toolkit.data.patients import PatientOverlap
from toolkit.files import write_atomically

PICTURE_PX = 160
MAX_PAIRS_SHOWN = 60
MAX_ROWS_SHOWN = 200
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } th, td { text-align: left; padding: .2rem 1rem .2rem 0;
border-bottom: 1px solid #d8dee4; vertical-align: top } td.number { text-align: right }
.verdict { padding: .6rem 1rem; border-radius: 6px; background: #dafbe1 } .verdict.leak { background: #ffebe9 }
.pairs { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; width: 310px; font-size: 12px;
overflow-wrap: anywhere } figure img { width: 148px; height: 148px; object-fit: contain; background: #000;
margin-right: 6px } .missing { display: inline-block; width: 148px } footer, .quiet { color: #59636e }
"""


def write_report(report: AuditReport, folder: Path) -> tuple[Path, Path]:
    """Write `audit.json` and `audit.html` into `folder`, each whole or not at all.

    Returns:
        The paths of (HTML, JSON).

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    page, data = folder / "audit.html", folder / "audit.json"
    write_atomically(data, report.to_json())
    write_atomically(page, report_html(report))
    return page, data


def report_html(report: AuditReport) -> str:
    """One self-contained page: no script, no file beside it, nothing from the network."""
    parts = [
        "<h1>Audit of labelled X-rays</h1>",
        _verdict(report),
        "".join(f"<p>{_text(note)}</p>" for note in report.notes),
        _counts(report),
        _overlaps(report.overlaps),
        _pairs("One picture, two labels", report.contradictions),
        _pairs("Exact duplicates (the same bytes)", [p for p in report.pairs if p.kind == "exact"]),
        _pairs("Near duplicates (verified on pixels)", [p for p in report.pairs if p.kind == "near"]),
        _near_search(report),
        _shortcuts(report),
        _unreadable(report.unreadable),
        f"<footer><p>{_text(NOTICE)}</p></footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Audit of labelled X-rays</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _verdict(report: AuditReport) -> str:
    reasons = report.leak_reasons()
    if not reasons:
        split = any(row.split for row in report.index)
        said = "No leak found between the splits." if split else "There are no splits yet that could leak."
        return f'<p class="verdict">{said}</p>'
    lines = "".join(f"<li>{_text(reason)}</li>" for reason in reasons)
    return f'<div class="verdict leak"><b>The splits leak.</b> Training refuses them as they are.<ul>{lines}</ul></div>'


def _counts(report: AuditReport) -> str:
    rows = []
    for name, value in summary(report).items():
        shown = ", ".join(f"{k} {n}" for k, n in value.items()) if isinstance(value, dict) else str(value)
        rows.append((name.replace("_", " "), shown))
    return "<h2>What was looked at</h2>" + _table((), rows)


def _overlaps(overlaps: Sequence[PatientOverlap]) -> str:
    if not overlaps:
        return ""
    shared = [overlap for overlap in overlaps if overlap.patients]
    if not shared:
        return "<h2>Patients on both sides of a split: 0</h2>"
    rows = [
        (o.grouping, " and ".join(o.splits), len(o.patients), o.in_words(), "yes" if o.decides else "no")
        for o in shared
    ]
    notes = dict.fromkeys(overlap.note for overlap in shared if overlap.note)
    head = ("patients told apart by", "splits", "shared patients", "X-rays of shared patients", "counts as leak")
    return (
        "<h2>Patients on both sides of a split</h2>" + _table(head, rows) + "".join(f"<p>{_text(n)}</p>" for n in notes)
    )


def _pairs(title: str, pairs: Sequence[Pair]) -> str:
    head = f"<h2>{_text(title)}: {len(pairs)}</h2>"
    # Leaks first: with many pairs only the first are shown.
    shown = sorted(pairs, key=lambda pair: not pair.across_splits)[:MAX_PAIRS_SHOWN]
    rest = len(pairs) - len(shown)
    tail = f'<p class="quiet">{rest} more are in audit.json.</p>' if rest else ""
    return head + f'<div class="pairs">{"".join(map(_figure, shown))}</div>' + tail


def _figure(pair: Pair) -> str:
    flags = [
        name
        for name, on in (
            ("across splits", pair.across_splits),
            ("two labels", pair.across_labels),
            ("two patients", pair.across_patients),
        )
        if on
    ]
    likeness = "" if pair.kind == "exact" else f"likeness {pair.similarity:.3f} "
    caption = f"{_caption(pair.a)}<br>{_caption(pair.b)}<br>{likeness}<b>{', '.join(flags)}</b>"
    return f"<figure>{_picture(pair.a.path)}{_picture(pair.b.path)}<figcaption>{caption}</figcaption></figure>"


def _caption(row: Xray) -> str:
    return _text(f"{row.path.name} ({row.label}, patient {row.patient_id}{', ' + row.split if row.split else ''})")


def _picture(path: Path) -> str:
    try:
        pixels = decode(path, min_side_px=PICTURE_PX).pixels
    except ImageError:  # It was there when it was audited; the report is still worth having.
        return '<span class="missing">no longer readable</span>'
    scale = PICTURE_PX / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}">'


def _near_search(report: AuditReport) -> str:
    search = report.near_search
    if not search.all_pairs:
        return ""
    return (
        f'<p class="quiet">{search.pictures} different files; {search.compared} of {search.all_pairs} pairs of hashes '
        f"compared, {search.candidates} looked at on pixels.</p>"
    )


def _shortcuts(report: AuditReport) -> str:
    if not report.shortcuts:
        return ""
    rows = [
        (s.attribute.replace("_", " "), s.label, s.in_words(interval=True), s.images)
        for s in sorted(report.shortcuts, key=lambda s: -s.auroc)
    ]
    return (
        "<h2>Shortcuts</h2><p>How well one attribute of the file alone, without a look at the lungs, tells the label. "
        "0.5 is chance. A model is worth what it adds to the highest of these figures.</p>"
        + _table(("attribute", "tells", "AUROC (95% interval)", "X-rays"), rows)
    )


def _unreadable(unreadable: Sequence[tuple[Xray, str]]) -> str:
    if not unreadable:
        return "<h2>Unreadable files: 0</h2>"
    rest = len(unreadable) - MAX_ROWS_SHOWN
    tail = f'<p class="quiet">{rest} more are in audit.json.</p>' if rest > 0 else ""
    rows = [(row.path, reason) for row, reason in unreadable[:MAX_ROWS_SHOWN]]
    return f"<h2>Unreadable files: {len(unreadable)}</h2>" + _table(("file", "why"), rows) + tail


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join(
        "<tr>" + "".join(f"<td{' class=number' * isinstance(cell, int)}>{_text(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{top}{body}</table>"


def _text(value: object) -> str:
    return escape(printable(value))
