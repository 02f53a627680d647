from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.errors import IndexFormatError, ResourceError
from toolkit.data.index import COLUMNS, Index, Xray, printable


def test_samples_hold_both_classes_in_every_split_and_every_patient_once(samples: Path) -> None:
    index = Index.read(samples / "index.csv")
    assert len(index) == len({row.patient_id for row in index}) == 64
    counts = {
        (s, lab): sum(row.label == lab for row in index.select(split=s))
        for s in ("train", "validation", "test")
        for lab in index.labels()
    }
    assert counts == {
        ("train", "normal"): 20,
        ("train", "pneumonia"): 20,
        ("validation", "normal"): 6,
        ("validation", "pneumonia"): 6,
        ("test", "normal"): 6,
        ("test", "pneumonia"): 6,
    }
    assert all(row.path.is_file() and row.path.is_absolute() for row in index)
    assert sum(file.stat().st_size for file in samples.rglob("*") if file.is_file()) < 4_000_000


NAMES = [
    "plain.jpg",
    "two words.jpg",
    "new\nline.jpg",
    "carriage\rreturn.jpg",
    "Röntgen-肺.png",
    'quote",comma.jpg',
    " leading.jpg",
    "-dash.jpg",
]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [
        Xray(tmp_path / "images" / name, "normal", f"p{i}", "src", "PA", 4.5, "F", "train", 2000, 1500)
        for i, name in enumerate(NAMES)
    ]
    index = Index((*rows, Xray(Path("/elsewhere/x.dcm"), "pneumonia", "p")))
    index.write(tmp_path / "index.csv")
    assert Index.read(tmp_path / "index.csv") == index
    text = (tmp_path / "index.csv").read_text(encoding="utf-8")
    assert text.startswith(",".join(COLUMNS))
    assert "images/plain.jpg" in text
    assert str(tmp_path) not in text


@pytest.mark.skipif(sys.platform == "darwin", reason="this file system takes UTF-8 names only")
def test_a_name_that_is_not_utf8_survives(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
    path.write_bytes(b"x")
    Index((Xray(path, "normal", "p"),)).write(tmp_path / "index.csv")
    assert Index.read(tmp_path / "index.csv").rows[0].path.read_bytes() == b"x"
    assert printable(path.name) == "caf\\udce9.jpg"


def test_an_index_by_hand_needs_three_columns_and_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "hand.csv"
    file.write_bytes("\ufeffpatient_id,label,path,mine\r\n1,normal,../a.jpg,x\r\n".encode())
    assert Index.read(file).rows == (Xray(tmp_path.parent / "a.jpg", "normal", "1"),)


def test_blanks_around_a_patient_do_not_make_another_one(tmp_path: Path) -> None:
    file = tmp_path / "hand.csv"
    file.write_text("path,label,patient_id,split\na.jpg,normal, 12,train\nb.jpg,normal ,12 ,test \n")
    a, b = Index.read(file)
    assert (a.patient_id, a.label) == (b.patient_id, b.label) == ("12", "normal")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "an empty file"),
        ("path,label\na.jpg,normal\n", "'patient_id'"),
        ("path,label,patient_id\n", "holds no X-ray"),
        ("path,label,patient_id\na.jpg,,1\n", "line 2"),
        ("path,label,patient_id\n,normal,1\n", "'path'"),
        ("path,label,patient_id\na.jpg\n", "'label'"),
        ("path,label,patient_id,split\na.jpg,normal,1,val\n", "'val'"),
        ("path,label,patient_id,age\na.jpg,normal,1,old\n", "'old'"),
        ("path,label,patient_id,age\na.jpg,normal,1,nan\n", "'nan'"),
        ("path,label,patient_id,width_px\na.jpg,normal,1,0\n", "'width_px'"),
        ("path,label,patient_id,width_px,height_px\na.jpg,normal,1,900000,1\n", "900000 x 1"),
        ("path,label,patient_id,label\na.jpg,normal,1,pneumonia\n", "more than one column 'label'"),
        ("path,label,patient_id,split,split\na.jpg,normal,1,,\n", "more than one column 'split'"),
        ("path,label,patient_id\n" + "a" * 200_000 + ",normal,1\n", "not a CSV"),
    ],
)
def test_what_is_no_index_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "index.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(IndexFormatError, match="(?s)" + said):
        Index.read(file)


def test_a_missing_file_a_folder_and_a_picture_are_no_index(tmp_path: Path, samples: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path, Index.read(samples / "index.csv").rows[0].path):
        with pytest.raises(IndexFormatError):
            Index.read(path)


def test_the_fingerprint_is_of_the_data_not_of_its_order_folder_or_split(samples: Path) -> None:
    index = Index.read(samples / "index.csv")
    moved = index.with_rows(replace(row, path=Path("/x") / row.path.name, split="") for row in reversed(index.rows))
    assert moved.fingerprint() == index.fingerprint()
    assert index.with_rows(index.rows[1:]).fingerprint() != index.fingerprint()
    relabelled = index.with_rows((replace(index.rows[0], label="other"), *index.rows[1:]))
    assert relabelled.fingerprint() != index.fingerprint()


def test_where_nothing_can_be_written_the_old_index_stays(tmp_path: Path, samples: Path) -> None:
    index = Index.read(samples / "index.csv")
    blocker = tmp_path / "file"
    blocker.write_text("old")
    with pytest.raises(ResourceError, match="cannot be written"):
        index.write(blocker / "index.csv")
    assert blocker.read_text() == "old"
