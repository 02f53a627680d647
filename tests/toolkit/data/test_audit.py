from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from firmware_bridge.decode import decode
from toolkit.data.audit import AuditReport, audit
from toolkit.data.audit_report import report_html, write_report
from toolkit.data.index import Index, Xray
from toolkit.data.split import patient_split
from toolkit.data.tables import Columns, read_table
from toolkit.data.text import audit_lines


@pytest.fixture
def some(samples: Path) -> list[Xray]:
    """Two normal and two pneumonia X-rays of each split."""
    rows = Index.read(samples / "index.csv").rows
    return [
        row
        for split in ("train", "validation", "test")
        for label in ("normal", "pneumonia")
        for row in [r for r in rows if r.split == split and r.label == label][:2]
    ]


def copied(row: Xray, folder: Path, name: str, **changes: str) -> Xray:
    shutil.copy(row.path, folder / name)
    return replace(row, path=folder / name, **changes)  # type: ignore[arg-type]


def changed(row: Xray, folder: Path, name: str, **changes: str) -> Xray:
    """The same picture, half as large and brighter."""
    pixels = decode(row.path).pixels
    small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / name), np.clip(small.astype(int) + 12, 0, 255).astype(np.uint8))
    return replace(row, path=folder / name, **changes)  # type: ignore[arg-type]


def test_the_samples_are_clean(samples: Path) -> None:
    report = audit(Index.read(samples / "index.csv"))
    assert not report.leaks
    assert not report.pairs
    assert not report.unreadable
    assert not report.contradictions
    assert {shortcut.attribute for shortcut in report.shortcuts} == {"width", "height", "aspect", "mean_grey", "border"}
    assert all(0.5 <= shortcut.auroc <= 1 for shortcut in report.shortcuts)
    assert "No leak found" in report_html(report)


def test_a_copy_in_another_split_leaks_even_with_another_patient(some: list[Xray], tmp_path: Path) -> None:
    twin = copied(some[0], tmp_path, "copy.jpg", patient_id="someone else", split="test")
    report = audit(Index((*some, twin)))
    (pair,) = report.pairs
    assert (pair.kind, pair.across_splits, pair.across_patients, pair.across_labels) == ("exact", True, True, False)
    assert report.leaks
    assert report.leak_reasons() == ["1 exact duplicate pairs lie across test and train"]


def test_a_near_copy_in_another_split_leaks(some: list[Xray], tmp_path: Path) -> None:
    twin = changed(some[0], tmp_path, "copy.png", patient_id="someone else", split="validation")
    report = audit(Index((*some, twin)))
    (pair,) = report.pairs
    assert pair.kind == "near"
    assert 0.9 < pair.similarity <= 1
    assert report.leak_reasons() == ["1 near duplicate pairs lie across train and validation"]


def test_a_near_copy_of_an_exact_pair_leaks_by_whichever_member_is_elsewhere(some: list[Xray], tmp_path: Path) -> None:
    undecided = replace(some[0], split="")
    exact = copied(some[0], tmp_path, "exact.jpg", split="test")
    near = changed(some[0], tmp_path, "near.png", split="train", patient_id="someone else")
    report = audit(Index((undecided, exact, near, *some[4:])))
    assert [pair.across_splits for pair in report.pairs] == [False, True]


def test_copies_on_one_side_are_told_but_leak_nothing(some: list[Xray], tmp_path: Path) -> None:
    report = audit(Index((*some, copied(some[0], tmp_path, "a.jpg"), copied(some[0], tmp_path, "b.jpg"))))
    assert len(report.pairs) == 3
    assert not report.leaks


def test_many_copies_are_paired_with_the_first_only(some: list[Xray], tmp_path: Path) -> None:
    copies = [copied(some[0], tmp_path, f"{i}.jpg") for i in range(30)]
    assert len(audit(Index((*some, *copies))).pairs) == 30


def test_pictures_that_are_the_same_are_one_group_whichever_pairs_link_them(some: list[Xray], tmp_path: Path) -> None:
    copies = [copied(some[0], tmp_path, f"{i}.jpg", split="") for i in range(2)]
    near = changed(some[0], tmp_path, "near.png", patient_id="someone else")
    other = copied(some[1], tmp_path, "other.jpg")
    groups = audit(Index((*some, *copies, near, other))).same_pictures()
    assert sorted(map(len, groups)) == [2, 4]
    assert {row.path.name for row in max(groups, key=len)} == {some[0].path.name, "0.jpg", "1.jpg", "near.png"}


def test_one_picture_with_two_labels(some: list[Xray], tmp_path: Path) -> None:
    exact = copied(some[0], tmp_path, "exact.jpg", label="pneumonia")
    near = changed(some[1], tmp_path, "near.png", label="pneumonia")
    report = audit(Index((*some, exact, near)))
    assert [pair.kind for pair in report.contradictions] == ["exact", "near"]
    assert not report.leaks
    assert "One picture, two labels: 2" in report_html(report)


def test_a_patient_on_both_sides_leaks(some: list[Xray]) -> None:
    one = next(row for row in some if row.split == "train")
    other = next(row for row in some if row.split == "test")
    rows = [replace(row, patient_id="p") if row in (one, other) else row for row in some]
    report = audit(Index(tuple(rows)))
    assert report.leaks
    (shared,) = [overlap for overlap in report.overlaps if overlap.decides and overlap.patients]
    assert (shared.splits, shared.patients) == (("train", "test"), ("p",))
    assert "train: 1 of 2 normal" in shared.in_words()


def test_what_is_not_shared_is_said_once_and_what_cannot_vary_is_no_figure(some: list[Xray]) -> None:
    report = audit(Index(tuple(replace(row, width_px=1000, height_px=1000) for row in some)))
    lines = list(audit_lines(report))
    assert sum("patient is in two splits" in line for line in lines) == 1
    assert not any("shared" in line or "numbered separately" in line for line in lines)
    heading = lines.index("how well one attribute of the file alone separates the labels (AUROC; 0.5 is nothing)")
    shown = dict(line.rsplit(maxsplit=1) for line in lines[heading + 1 : heading + 6])
    assert shown["  width"] == shown["  height"] == shown["  aspect"] == "-"
    assert float(shown["  mean grey"]) >= 0.5
    page = report_html(report)
    assert "<td>-</td>" in page
    assert "0.500 (0.500" not in page
    assert "Patients on both sides of a split: 0" in page


BROKEN = {
    "empty.jpg": b"",
    "text.png": b"hello",
    "one pixel.png": cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes(),
    "new\nline.jpg": b"\xff\xd8\xff",
    "häßlich.dcm": b"\0" * 128 + b"DICM",
}


def test_what_cannot_be_read_is_listed_with_the_reason_and_the_rest_is_audited(
    some: list[Xray], tmp_path: Path
) -> None:
    rows = [replace(some[0], path=tmp_path / name) for name in BROKEN]
    for name, data in BROKEN.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "truncated.jpg").write_bytes(some[0].path.read_bytes()[:3000])
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    rows += [replace(some[0], path=tmp_path / n) for n in ("truncated.jpg", "folder.jpg", "pipe.jpg", "missing.jpg")]
    report = audit(Index((*rows, *some)))
    assert [row.path.name for row, _ in report.unreadable] == [row.path.name for row in rows]
    assert all(len(reason) > 10 for _, reason in report.unreadable)
    assert not report.pairs
    page = report_html(report)
    assert "Unreadable files: 9" in page
    assert "new\\nline.jpg" in page


def test_nothing_readable_and_one_class_only_are_told_not_raised(tmp_path: Path) -> None:
    report = audit(Index((Xray(tmp_path / "a.png", "normal", "a"), Xray(tmp_path / "b.png", "normal", "b"))))
    assert len(report.unreadable) == 2
    assert not report.shortcuts
    assert any("one class only" in note for note in report.notes)
    assert any("patient of its own" in note for note in report.notes)
    assert "There are no splits yet" in report_html(report)


def test_empty_pictures_are_not_duplicates_of_each_other(tmp_path: Path, some: list[Xray]) -> None:
    rows = []
    for i in (0, 128):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((100, 100), i, np.uint8))
        rows.append(replace(some[0], path=tmp_path / f"{i}.png"))
    report = audit(Index((*rows, *some)))
    assert not report.pairs
    assert any("show nothing" in note for note in report.notes)


def test_a_file_without_original_size_stays_out_of_the_size_shortcuts(some: list[Xray]) -> None:
    rows = (replace(some[0], width_px=None, height_px=None), *some[1:])
    images = {shortcut.attribute: shortcut.images for shortcut in audit(Index(rows)).shortcuts}
    assert images == {"width": 11, "height": 11, "aspect": 11, "mean_grey": 12, "border": 12}


def test_three_classes_are_each_told_from_the_others(some: list[Xray]) -> None:
    rows = [replace(row, label=("normal", "bacteria", "virus")[i % 3]) for i, row in enumerate(some)]
    found = {(shortcut.attribute, shortcut.label) for shortcut in audit(Index(tuple(rows))).shortcuts}
    assert len(found) == 15


def test_a_split_made_with_the_audit_does_not_leak_and_needs_no_second_look(some: list[Xray], tmp_path: Path) -> None:
    twins = [copied(row, tmp_path, row.path.name, patient_id=f"twin {i}") for i, row in enumerate(some)]
    first = audit(Index((*some, *(replace(twin, split="") for twin in twins))))
    divided = patient_split(first.index, validation=0.25, test=0.25, seed=1, keep_together=first.same_picture())
    again = first.after_split(divided)
    assert not again.leaks
    assert again.index == divided
    assert json.loads(again.to_json()) == json.loads(audit(divided).to_json())
    apart = divided.with_rows(replace(row, split="train" if "twin" in row.patient_id else "test") for row in divided)
    assert first.after_split(apart).leaks


def test_the_files_hold_everything_and_no_name_can_break_the_page(some: list[Xray], tmp_path: Path) -> None:
    evil = copied(some[0], tmp_path, "<script>alert(1)<&.jpg", patient_id="<b>", split="test")
    stray = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    report = audit(Index((*some, evil, replace(some[1], path=stray))))
    page, data = write_report(report, tmp_path / "out" / "deep")
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("data:image/jpeg;base64,") == 2
    assert "Not for diagnosis" in html
    said = json.loads(data.read_text(encoding="utf-8"))
    assert said["schema"] == 1
    assert said["leaks"] is True
    assert said["summary"]["exact_pairs"] == 1
    assert said["pairs"][0]["a"]["split"] == "train"
    assert said["unreadable"][0]["path"] == str(stray)


@pytest.fixture(scope="session")
def kermany(big_data: Path) -> AuditReport:
    columns = Columns(
        path="path",
        label="label",
        patient="patient_id",
        view="view",
        age="age",
        split="split_in_source",
        width="true_width",
        height="true_height",
    )
    return audit(read_table(big_data / "kermany" / "manifest.csv", columns=columns))


def test_kermany_exact_pairs(kermany: AuditReport) -> None:
    exact = [pair for pair in kermany.pairs if pair.kind == "exact"]
    assert len(exact) == 34
    assert [pair.a.path.stem for pair in exact if pair.across_patients] == ["NORMAL2-IM-0095-0001"]
    assert not kermany.unreadable
    assert kermany.near_search.compared < 0.03 * kermany.near_search.all_pairs


def test_kermany_official_split_shares_bare_numbers_and_no_number_with_its_type(kermany: AuditReport) -> None:
    found = {(overlap.grouping, overlap.splits): overlap for overlap in kermany.overlaps}
    safe = found["patient id of the index", ("train", "test")]
    typed = found["number and type in the file name", ("train", "test")]
    assert safe.images["test"] == {"normal": (0, 234), "pneumonia": (320, 390)}
    assert not typed.patients
    assert kermany.leaks
    assert "numbered separately" in report_html(kermany)


def test_kermany_width_shortcut(kermany: AuditReport) -> None:
    auroc = {shortcut.attribute: shortcut.auroc for shortcut in kermany.shortcuts}
    assert auroc["width"] == pytest.approx(0.889, abs=0.0006)
    assert auroc["aspect"] == pytest.approx(0.84, abs=0.006)


def test_kermany_split_by_patient_does_not_leak(kermany: AuditReport) -> None:
    divided = patient_split(kermany.index, seed=0, keep_together=kermany.same_picture())
    assert not kermany.after_split(divided).leaks
    official = patient_split(kermany.index, seed=0, keep_test=True, keep_together=kermany.same_picture())
    assert not kermany.after_split(official).leaks
    assert len(official.select(split="test")) == 624
