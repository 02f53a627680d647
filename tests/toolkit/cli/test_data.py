from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.data.index import Index


def cxr_edge(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit.cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_from_a_folder_to_an_audited_split(samples: Path, tmp_path: Path) -> None:
    done = cxr_edge("data", "index", samples / "chest_xray", "--name", "kermany", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "64 X-rays of 64 patients" in done.stdout
    done = cxr_edge("data", "split", "index.csv", "--out", "divided.csv", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(Index.read(tmp_path / "divided.csv").select(split="test")) == 6
    done = cxr_edge("data", "audit", "divided.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Not for diagnosis" in done.stdout
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["leaks"] is False
    assert (tmp_path / "audit" / "audit.html").is_file()


def test_a_leak_ends_with_its_own_exit_code_and_the_report_is_there(samples: Path, tmp_path: Path) -> None:
    index = Index.read(samples / "index.csv")
    text = "path,label,patient_id,split\n" + "".join(
        f'"{row.path}",{row.label},{i // 2},{("train", "test")[i % 2]}\n' for i, row in enumerate(index.rows[:12])
    )
    (tmp_path / "leaking.csv").write_text(text)
    done = cxr_edge("data", "audit", "leaking.csv", "--out", "report", cwd=tmp_path)
    assert done.returncode == 4
    assert "6 patients are in both train and test" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "report" / "audit.html").is_file()
    assert cxr_edge("data", "audit", "leaking.csv", "--allow-leaks", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("index", "empty"), 3, "not one image"),
        (("index", "nowhere"), 3, "no such folder"),
        (("index", "table.csv"), 3, "lacks the column"),
        (("index", "table.csv", "--label", "sick"), 2, "VALUE=LABEL"),
        (("index", "table.csv", "--skip-unknown-labels"), 2, "name the labels to keep"),
        (("audit", "table.csv"), 3, "make an index first: cxr-edge data index"),
        (("audit", "folder"), 3, "make an index first: cxr-edge data index"),
        (("split", "none.csv"), 3, "cannot be read"),
    ],
)
def test_bad_input_ends_with_a_message(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    done = cxr_edge("data", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "do:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_with_named_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,finding,who\na.png,sick,1\nb.png,well,2\nc.png,odd,3\n")
    arguments = ("--path-column", "file", "--label-column", "finding", "--patient-column", "who")
    labels = ("--label", "sick=pneumonia", "--label", "well=normal", "--skip-unknown-labels")
    done = cxr_edge("data", "index", "t.csv", *arguments, *labels, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "odd" in done.stderr
    assert Index.read(tmp_path / "index.csv").labels() == ("normal", "pneumonia")


STANDARD_TABLE = """path,label,patient_id,age,sex,split,ward,how
a.png,pneumonia,p,4,F,train,3,PA
b.png,normal,q,1-5,M,test,3,AP
"""


def test_standard_columns_are_taken_and_the_rest_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(STANDARD_TABLE)
    done = cxr_edge("data", "index", "t.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "columns not used: ward, how\n" in done.stdout
    assert "are left out: 1, for example" in done.stderr
    assert "'1-5'" in done.stderr
    first, second = Index.read(tmp_path / "index.csv")
    assert (first.patient_id, first.age, first.sex, first.split, first.view) == ("p", 4.0, "F", "train", "")
    assert second.age is None


def test_an_option_beats_a_standard_name_and_an_empty_one_leaves_it_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(STANDARD_TABLE)
    options = ("--split-column", "", "--patient-column", "sex", "--view-column", "how", "--age-column", "")
    done = cxr_edge("data", "index", "t.csv", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "columns not used: patient_id, age, split, ward\n" in done.stdout
    first = Index.read(tmp_path / "index.csv").rows[0]
    assert (first.patient_id, first.view, first.sex, first.split) == ("F", "PA", "", "")


def test_where_the_disk_is_full_the_old_index_stays(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("old")
    # A limit on file size fails a write in the middle, as a full disk does.
    command = f'ulimit -f 2; exec "{sys.executable}" -B -m toolkit.cli.main data index "{samples / "chest_xray"}"'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 8, done.stderr
    assert "cannot be written" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["index.csv"]
    assert (tmp_path / "index.csv").read_text() == "old"
