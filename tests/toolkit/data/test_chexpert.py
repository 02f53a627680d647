"""CheXpert's table, in its published form, around real pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware_bridge.errors import IndexFormatError
from toolkit.cli.data import command
from toolkit.data.chexpert import read_chexpert
from toolkit.data.index import Index
from toolkit.data.tables import guess_kind

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
# Path, sex, age, frontal or lateral, AP or PA, no finding, lung opacity, pneumonia.
ROWS = [
    ("train/patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP", "1.0", "", ""),
    ("train/patient00002/study1/view1_frontal.jpg", "Male", 87, "Frontal", "PA", "", "1.0", "1.0"),
    ("train/patient00002/study1/view2_lateral.jpg", "Male", 87, "Lateral", "", "", "1.0", "1.0"),
    ("train/patient00003/study2/view1_frontal.jpg", "Male", 41, "Frontal", "AP", "", "1.0", "-1.0"),
    ("train/patient00004/study1/view1_frontal.jpg", "Male", 20, "Frontal", "PA", "", "1.0", ""),
    ("train/patient00005/study1/view1_frontal.jpg", "Female", 0, "Frontal", "LL", "1.0", "", "0.0"),
    ("valid/patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "AP", "0.0", "1.0", "1.0"),
    ("valid/patient64542/study1/view1_frontal.jpg", "Unknown", 70, "Frontal", "PA", "1.0", "0.0", "0.0"),
]


@pytest.fixture
def table(tmp_path: Path, samples: Path) -> Path:
    picture = next(samples.glob("chest_xray/**/*.jp*g"))
    lines = [HEADER]
    for path, sex, age, side, view, nothing, opacity, pneumonia in ROWS:
        lines.append(f"CheXpert-v1.0-small/{path},{sex},{age},{side},{view},{nothing},,,{opacity},,,,{pneumonia},,,,,,")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / path)
    file = tmp_path / "train.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_frontal_xrays_with_a_sure_label(table: Path) -> None:
    index = read_chexpert(table)
    assert [(row.patient_id, row.label) for row in index] == [
        ("patient00001", "normal"),
        ("patient00002", "pneumonia"),
        ("patient00005", "normal"),
        ("patient64541", "pneumonia"),
        ("patient64542", "normal"),
    ]
    assert [row.split for row in index] == ["", "", "", "test", "test"]
    assert [row.view for row in index] == ["AP", "PA", "", "AP", "PA"]
    assert [row.sex for row in index] == ["F", "M", "F", "M", ""]
    assert index.rows[0].age == 68


def test_another_finding_can_be_the_positive_one(table: Path) -> None:
    positives = [row.patient_id for row in read_chexpert(table, positive="Lung Opacity") if row.label == "pneumonia"]
    assert positives == ["patient00002", "patient00003", "patient00004", "patient64541"]


def test_the_table_is_known_by_its_header(table: Path, tmp_path: Path) -> None:
    assert guess_kind(table) == "chexpert"
    out = tmp_path / "index.csv"
    CliRunner().invoke(command, ["index", str(table), "--out", str(out)], catch_exceptions=False)
    assert len(Index.read(out)) == 5


def test_without_the_images_the_message_says_where_they_were_looked_for(table: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexFormatError, match="none of the images"):
        read_chexpert(table, images=tmp_path / "nowhere")
