"""docs/dicom.md: its commands run, and its table has every key."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from firmware_bridge.dicom_settings import DicomSettings
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import Agent, free_port, until
from tests.end_to_end.dcmtk import run

PAGE = (REPOSITORY / "docs" / "dicom.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_key_is_explained_as_it_is() -> None:
    for key in fields(DicomSettings):
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{key.name}` |")]
        assert row.endswith(f"| {key.metadata['help']} |")


def test_the_commands_of_the_page_run(agent: Agent, tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom", reason="needs the extra 'dicom-net'")
    pytest.importorskip("gdcm", reason="needs the decoders of the extra 'dicom'")
    port = str(free_port())
    receive, reports = blocks("toml")
    keys = re.findall(r"^(\w+) =", reports, re.MULTILINE)
    assert set(keys) <= {key.name for key in fields(DicomSettings)}
    config = tmp_path / "agent.toml"
    config.write_text(receive.replace("11112", port) + "report = true\nbeside = true\n")
    agent.start("--config", str(config))
    until(lambda: f":{port}" in agent.log.read_text(), what="the receiver listens")
    sending, showing = blocks("sh")
    for line in sending.replace("11112", port).splitlines():
        name, *arguments = shlex.split(line)
        arguments = [str(REPOSITORY / word) if word.startswith("samples/") else word for word in arguments]
        done = run(name, *arguments)
        assert done.returncode == 0, (line, done.stderr)
    made = until(lambda: [*agent.watch.rglob("*.cxr.sr.dcm")][1:])
    name, _, html = shlex.split(showing)
    assert run(name, made[0], tmp_path / html).returncode == 0
    assert "Not for diagnosis" in (tmp_path / html).read_text(encoding="utf-8", errors="replace")
