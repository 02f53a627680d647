from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError, IndexFormatError
from toolkit.data.dicom_header import parse_age
from toolkit.data.index import Index
from toolkit.data.nih_rsna import read_nih, read_rsna
from toolkit.data.readers import kermany_patient_ids, patient_from_name, read_class_folders
from toolkit.data.tables import Columns, guess_kind, read_table


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("stem", "ids"),
    [
        ("person3_bacteria_10", ("person3", "person3_bacteria")),
        ("person3_virus_15", ("person3", "person3_virus")),
        ("person1_virus_6_2", ("person1", "person1_virus")),
        ("IM-0115-0001", ("IM-0115", "IM-0115")),
        ("NORMAL2-IM-0587-0001-0002", ("NORMAL2-IM-0587", "NORMAL2-IM-0587")),
        ("00000001_000", None),
        ("someone", None),
    ],
)
def test_kermany_names_tell_a_safe_patient_and_one_by_type(stem: str, ids: tuple[str, str] | None) -> None:
    assert kermany_patient_ids(stem) == ids


def test_other_names_tell_nih_patients_or_stand_for_themselves() -> None:
    assert patient_from_name("00000047_005") == "47"
    assert patient_from_name("scan 7") == "scan 7"


def test_the_sample_folders_give_the_sample_index(samples: Path) -> None:
    index = Index.read(samples / "index.csv")
    wanted = [(row.path, row.label, row.patient_id, row.source, row.split) for row in index]
    # One folder further up lies dicom/ beside the splits: no class, and left out.
    for root in (samples / "chest_xray", samples):
        found = read_class_folders(root, source="kermany")
        assert [(row.path, row.label, row.patient_id, row.source, row.split) for row in found] == wanted, root


def test_folders_above_the_splits_do_not_matter_nor_do_hidden_files(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "chest_xray/train/NORMAL/IM-0001-0001.jpeg",
        "chest_xray/val/PNEUMONIA/person1_virus_2.jpeg",
        "chest_xray/val/PNEUMONIA/.DS_Store",
        "chest_xray/val/PNEUMONIA/._person1_virus_2.jpeg",
        "chest_xray/val/PNEUMONIA/notes.txt",
        "__MACOSX/chest_xray/train/NORMAL/._IM-0001-0001.jpeg",
    )
    found = {(row.path.name, row.label, row.patient_id, row.split) for row in read_class_folders(tmp_path)}
    assert found == {
        ("IM-0001-0001.jpeg", "normal", "IM-0001", "train"),
        ("person1_virus_2.jpeg", "pneumonia", "person1", "validation"),
    }


def test_plain_classes_with_odd_names_and_patient_folders(tmp_path: Path) -> None:
    touch(tmp_path, "Sick/p 1/a\nb.png", "Sick/p 1/ü.PNG", "Well/p2/x.dcm")
    index = read_class_folders(tmp_path, labels={"Sick": "pneumonia", "well": "normal"}, patient_pattern="^([^/]+)/")
    found = {(row.path.name, row.label, row.patient_id, row.split) for row in index}
    assert found == {
        ("a\nb.png", "pneumonia", "p 1", ""),
        ("ü.PNG", "pneumonia", "p 1", ""),
        ("x.dcm", "normal", "p2", ""),
    }


def test_dicom_headers_fill_what_folders_cannot_tell(tmp_path: Path, samples: Path) -> None:
    for label, name in (("normal", "normal_dx_monochrome2.dcm"), ("pneumonia", "pneumonia_cr_monochrome1_12bit.dcm")):
        (tmp_path / label).mkdir()
        shutil.copy(samples / "dicom" / name, tmp_path / label)
    normal, pneumonia = read_class_folders(tmp_path)
    assert (normal.view, normal.age, normal.sex, normal.width_px) == ("AP", 4.0, "O", None)
    assert normal.patient_id.startswith("dicom-")
    assert normal.patient_id != pneumonia.patient_id
    assert "SAMPLE" not in normal.patient_id


def test_a_damaged_element_costs_neither_the_index_nor_the_patient(tmp_path: Path, samples: Path) -> None:
    touch(tmp_path, "normal/1.png", "pneumonia/2.png")
    content, age = (samples / "dicom" / "normal_dx_monochrome2.dcm").read_bytes(), b"\x10\x00\x10\x10AS\x04\x00004Y"
    assert content.count(age) == 1
    (tmp_path / "normal" / "3.dcm").write_bytes(content.replace(age, age.replace(b"AS", b"ZZ")))
    damaged = read_class_folders(tmp_path).rows[1]
    assert (damaged.path.name, damaged.age, damaged.sex) == ("3.dcm", None, "O")
    assert damaged.patient_id.startswith("dicom-")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "not one image"),
        (("loose.png",), "1 images outside class folders"),
        (("train/NORMAL/1.png",), "one class only"),
        (("NORMAL/notes.txt",), "not one image"),
    ],
)
def test_folders_without_two_classes_are_told(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(IndexFormatError, match=said):
        read_class_folders(touch(tmp_path, *names))


def test_wrong_roots_labels_and_patterns_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "A/1.png", "B/2.png")
    with pytest.raises(IndexFormatError, match="no such folder"):
        read_class_folders(tmp_path / "none")
    with pytest.raises(IndexFormatError, match="a file"):
        read_class_folders(tmp_path / "A" / "1.png")
    with pytest.raises(IndexFormatError, match=r"(?s)no --label names.*came: +B"):
        read_class_folders(tmp_path, labels={"A": "normal"})
    with pytest.raises(ConfigError, match="without a group"):
        read_class_folders(tmp_path, patient_pattern="a")
    with pytest.raises(ConfigError, match="patient pattern"):
        read_class_folders(tmp_path, patient_pattern="(")
    with pytest.raises(IndexFormatError, match="tells no patient"):
        read_class_folders(tmp_path, patient_pattern="^(x)")


TABLE = "file,finding,who,how,years,gender,part,w,h\na b.png,sick,1,PA,058Y,F,val,3000,2000\nc.png,well,2,AP,1-5,M,,,\n"
COLUMNS = Columns("file", "finding", "who", "how", "years", "gender", "part", "w", "h")


def test_a_table_with_named_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE, encoding="utf-8")
    first, second = read_table(tmp_path / "t.csv", columns=COLUMNS, labels={"sick": "pneumonia", "well": "normal"})
    assert (first.path, first.label, first.patient_id) == (tmp_path / "a b.png", "pneumonia", "1")
    assert (first.view, first.age, first.sex, first.split) == ("PA", 58.0, "F", "validation")
    assert (first.width_px, first.height_px, first.source) == (3000, 2000, tmp_path.name)
    assert (second.age, second.split, second.width_px) == (None, "", None)
    elsewhere = read_table(tmp_path / "t.csv", columns=COLUMNS, images=tmp_path / "images")
    assert elsewhere.rows[0].path == tmp_path / "images" / "a b.png"


def test_wrong_tables_are_told(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(TABLE, encoding="utf-8")
    with pytest.raises(
        IndexFormatError, match=r"(?s)lacks the columns 'path', 'label'.*came: +the columns file, finding"
    ):
        read_table(file)
    with pytest.raises(IndexFormatError, match=r"(?s)not known.*'well' \(1 rows\).*--skip-unknown-labels"):
        read_table(file, columns=COLUMNS, labels={"sick": "pneumonia"})
    with pytest.raises(IndexFormatError, match="one class only"):
        read_table(file, columns=COLUMNS, labels={"sick": "pneumonia"}, skip_unknown_labels=True)
    file.write_text("path,label\n,sick\n", encoding="utf-8")
    with pytest.raises(IndexFormatError, match="line 2: no path"):
        read_table(file)
    file.write_text("path,label,split\na,sick,holdout\n", encoding="utf-8")
    with pytest.raises(IndexFormatError, match="unknown split"):
        read_table(file, columns=Columns(split="split"))
    file.write_bytes(b"\xff\xfe\0\0binary")
    with pytest.raises(IndexFormatError, match="lacks the columns"):
        read_table(file)


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)


def test_nih_takes_what_is_on_disk_and_its_official_split(tmp_path: Path) -> None:
    touch(tmp_path, "images_001/images/00000001_000.png", "images_002/images/00000002_001.png")
    (tmp_path / "Data_Entry_2017.csv").write_text(
        NIH_HEADER
        + "00000001_000.png,No Finding,0,1,58,M,PA,2682,2749,0.143,0.143,\n"
        + "00000002_001.png,Effusion|Pneumonia,1,2,411,F,AP,2500,2048,0.168,0.168,\n"
        + "00000003_000.png,Pneumonia,0,3,70,F,AP,2500,2048,0.168,0.168,\n"
        + "00000004_000.png,Hernia,0,4,81,F,PA,2500,2048,0.168,0.168,\n",
        encoding="utf-8",
    )
    (tmp_path / "test_list.txt").write_text("00000002_001.png\n")
    assert guess_kind(tmp_path / "Data_Entry_2017.csv") == "nih"
    normal, pneumonia = read_nih(tmp_path / "Data_Entry_2017.csv")
    assert (normal.label, normal.patient_id, normal.age, normal.sex, normal.view) == ("normal", "1", 58.0, "M", "PA")
    assert (normal.width_px, normal.height_px, normal.split) == (2682, 2749, "")
    # 411 years is a typing error of the source.
    assert (pneumonia.label, pneumonia.age, pneumonia.split) == ("pneumonia", None, "test")
    with pytest.raises(IndexFormatError, match=r"(?s)none of the images.*--images"):
        read_nih(tmp_path / "Data_Entry_2017.csv", images=tmp_path / "nowhere")


def test_rsna_counts_an_image_once_and_persons_by_the_mapping(tmp_path: Path) -> None:
    touch(tmp_path, "stage_2_train_images/aa.dcm", "stage_2_train_images/bb.dcm", "stage_2_train_images/cc.dcm")
    table = tmp_path / "stage_2_detailed_class_info.csv"
    table.write_text(
        "patientId,class\naa,Lung Opacity\naa,Lung Opacity\nbb,Normal\ncc,No Lung Opacity / Not Normal\ndd,Normal\n"
    )
    mapping = tmp_path / "map.json"
    entries = [("aa", "00000007_001.png"), ("bb", "00000007_000.png")]
    mapping.write_text(json.dumps([{"subset_img_id": image, "img_id": name} for image, name in entries]))
    assert guess_kind(table) == "rsna"
    assert [(r.path.name, r.label, r.patient_id) for r in read_rsna(table)] == [
        ("aa.dcm", "pneumonia", "aa"),
        ("bb.dcm", "normal", "bb"),
    ]
    assert {row.patient_id for row in read_rsna(table, mapping=mapping)} == {"7"}
    mapping.write_text('{"a": 1}')
    with pytest.raises(IndexFormatError, match="mapping"):
        read_rsna(table, mapping=mapping)
    table.write_text("patientId,class\naa,Broken Rib\n")
    with pytest.raises(IndexFormatError, match="Broken Rib"):
        read_rsna(table)


@pytest.mark.parametrize(
    ("text", "years"),
    [("63", 63.0), ("063Y", 63.0), ("018M", 1.5), ("", None), ("1-5", None), ("411", None), ("Y", None), ("nan", None)],
)
def test_ages(text: str, years: float | None) -> None:
    assert parse_age(text) == years
