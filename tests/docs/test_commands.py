"""The commands of README.md and docs/, run as they stand there, page by page, in order, in a folder with samples."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_bridge.shipped import shipped_bundle
from tests.conftest import REPOSITORY
from tests.docs.blocks import PAGES, Block, blocks
from tests.docs.program import stop_agent
from tests.end_to_end.conftest import Mosquitto, free_port

# Pages whose commands have a test of their own, with what they need beside them.
ELSEWHERE = {
    "dicom.md": "tests/end_to_end/test_dicom_docs.py",
    "fhir.md": "tests/end_to_end/test_docs_commands.py",
    "mqtt.md": "tests/end_to_end/test_docs_mqtt.py",
    "page.md": "tests/end_to_end/test_docs_commands.py",
    "results.md": "tests/end_to_end/test_docs_commands.py",
    "service.md": "tests/end_to_end/test_docs_commands.py",
}
# They train: `make test-docs` runs them.
LONG = ("README.md", "own-data.md", "tutorial.md")
_TINY = {
    "CXR_EDGE_TRAIN_SIZE_PX": "64",
    "CXR_EDGE_TRAIN_BATCH_SIZE": "8",
    "CXR_EDGE_TRAIN_FLOAT_EPOCHS": "1",
    "CXR_EDGE_TRAIN_PRUNE_EPOCHS": "1",
    "CXR_EDGE_TRAIN_QAT_EPOCHS": "1",
    "CXR_EDGE_TRAIN_ALLOW_INT8_LOSS": "1",
}
_BLOCK_S = 900


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.file or (block.language == "sh" and not block.not_run)]


def cases() -> Iterator[object]:
    for page in PAGES:
        if page.name not in ELSEWHERE and any(block.language == "sh" for block in runnable(page)):
            yield pytest.param(page, id=page.name, marks=[pytest.mark.soak] if page.name in LONG else [])


class Sandbox:
    """A folder as a reader has one, `cxr-edge` on the path, and what the page takes for granted."""

    def __init__(self, folder: Path, text: str, samples: Path) -> None:
        self.folder = folder
        self.instead: dict[str, str] = {"11112": str(free_port()), "8480": str(free_port())}
        (folder / "bin").mkdir()
        program = folder / "bin" / "cxr-edge"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.docs.program "$@"\n')
        program.chmod(0o755)
        (folder / "samples").symlink_to(samples)
        if "mkdir xrays" not in text:
            (folder / "xrays").mkdir()
        made = ("runs/mine/mine.cxr",) if "--name mine" in text else ()
        for name, make in _TAKEN_FOR_GRANTED.items():
            if name in text and name not in made and not (folder / name).exists():
                make(folder / name, samples)

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        home = {
            "HOME": str(self.folder),
            "PYTHONPATH": str(REPOSITORY),
            "CXR_EDGE_KEY_PASSPHRASE": "quiet waiting room",
        }
        return {**os.environ, **_TINY, **home, "PATH": path}

    def run(self, block: Block) -> None:
        text = block.text
        for name, here in self.instead.items():
            text = text.replace(name, here)
        # The program itself leaves the agent running, and returns once it watches: no race with the next line.
        text = re.sub(r"^(cxr-edge agent [^&#\n]*)&", r"\1", text, flags=re.MULTILINE)
        if block.file:
            (self.folder / block.file).write_text(text, encoding="utf-8")
            return
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BLOCK_S,
        )
        log = self.folder / "agent.log"
        said = f"{done.stdout}\n{log.read_text() if log.exists() else ''}"
        assert done.returncode == 0, f"{block.page}:{block.line}: exit code {done.returncode}\n{text}\n{said}"


def _table(path: Path, samples: Path) -> None:
    """The samples as a clinic might list them: other labels, one that is no class."""
    names = {"normal": "well", "pneumonia": "sick"}
    with (samples / "index.csv").open(newline="") as source, path.open("w", newline="") as target:
        rows = csv.writer(target)
        rows.writerow(["path", "finding", "patient_id"])
        for row in csv.DictReader(source):
            place = Path(row["path"]).relative_to("chest_xray")
            rows.writerow([place, names[row["label"].lower()], row["patient_id"]])
        rows.writerow(["unknown.jpeg", "unclear", "p"])


def _index(path: Path, samples: Path) -> None:
    path.write_text((samples / "index.csv").read_text().replace("chest_xray/", f"{samples}/chest_xray/"))


def _shipped(path: Path, _samples: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(shipped_bundle(), path)


def _link(part: str) -> Callable[[Path, Path], None]:
    return lambda path, samples: path.symlink_to(samples / part)


# What a page names and does not make: an own bundle is the one that ships, own X-rays are samples.
_TAKEN_FOR_GRANTED: dict[str, Callable[[Path, Path], None]] = {
    "chest_xray": _link("chest_xray"),
    "site": _link("chest_xray/test"),
    "folder": _link("chest_xray/val"),
    "pacs-export": _link("chest_xray/val"),
    "table.csv": _table,
    "other.csv": _index,
    "runs/mine/mine.cxr": _shipped,
    "runs/kermany/kermany.cxr": _shipped,
    "runs/kermany/index.csv": _index,
    "mine.cxr": _shipped,
}


@pytest.fixture
def sandbox_of(tmp_path: Path, samples: Path) -> Iterator[Callable[[str], Sandbox]]:
    yield lambda text: Sandbox(tmp_path, text, samples)
    assert stop_agent(tmp_path) in (None, 0), (tmp_path / "agent.log").read_text()


@pytest.mark.mosquitto
@pytest.mark.parametrize("page", list(cases()))
def test_the_commands_of_a_page_run(
    page: Path, sandbox_of: Callable[[str], Sandbox], request: pytest.FixtureRequest
) -> None:
    todo = runnable(page)
    text = "".join(block.text for block in todo)
    for program, package in (("storescu", "dcmtk"), ("mosquitto_sub", "mosquitto-clients")):
        if program in text and not Path("/usr/bin", program).exists():
            pytest.skip(f"needs {program}: apt-get install {package}")
    sandbox = sandbox_of(text)
    if "broker.local" in text:
        mosquitto: Mosquitto = request.getfixturevalue("mosquitto")
        mosquitto.start()
        sandbox.instead |= {
            "mqtt://broker.local": mosquitto.url,
            "-h broker.local": f"-h 127.0.0.1 -p {mosquitto.port}",
        }
    for block in todo:
        sandbox.run(block)
    if page.name in CHECKS:
        CHECKS[page.name](sandbox.folder)


def _tutorial(folder: Path) -> None:
    records = [json.loads(path.read_text()) for path in (folder / "xrays").glob("*.cxr.json")]
    with (folder / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 13
    assert len(records) == 13 - len(list((folder / "xrays" / "rejected").glob("*.cxr.json")))
    assert (folder / "runs" / "first" / "report.html").exists()


CHECKS: dict[str, Callable[[Path], None]] = {"tutorial.md": _tutorial}


def test_each_page_is_run_somewhere() -> None:
    for name, test in ELSEWHERE.items():
        assert name in (REPOSITORY / test).read_text(encoding="utf-8")
