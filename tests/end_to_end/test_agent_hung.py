"""A real agent in which something hangs: a decoder is ended and its file refused; inference starves the watchdog."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.conftest import until as wait
from tests.end_to_end.test_agent_service import Manager, config

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Agent, Xrays

until = partial(wait, timeout_s=90.0)  # a machine that has much else to do

# The agent itself, that waits three seconds for a decoder instead of a minute and more.
IMPATIENT = """
from firmware_bridge import dicom_codec
dicom_codec._WALL_FACTOR, dicom_codec._WALL_S = 0.0, 3.0
from toolkit.cli.main import main
main()
"""
# The agent itself, with an interpreter that never comes back from a picture of one width.
HANGS = """
import time
from firmware_bridge.score import Scorer
whole = Scorer.score_decoded
def score_decoded(self, decoded, **options):
    while decoded.width_px == 333:
        time.sleep(1)
    return whole(self, decoded, **options)
Scorer.score_decoded = score_decoded
from toolkit.cli.main import main
main()
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def decoders_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"firmware_bridge.codec_process" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue  # it ended meanwhile
    return found


def test_a_decoder_that_hangs_is_ended_and_its_file_refused(agent: Agent, samples: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra 'dicom'")
    pytest.importorskip("gdcm", reason="needs the decoders of the extra 'dicom'")
    sample = pydicom.dcmread(min((samples / "dicom").glob("*.dcm")))
    if not sample.file_meta.TransferSyntaxUID.is_compressed:
        sample.compress(pydicom.uid.RLELossless)
    script = tmp_path / "impatient.py"
    script.write_text(IMPATIENT)
    agent.program = [str(script)]

    def put(name: str) -> None:
        sample.ImageComments = name  # another file, so that it is not known already
        hidden = agent.watch / f".{name}"
        sample.save_as(hidden)
        hidden.rename(agent.watch / name)

    agent.start("--settle", "0.1", "--grace", "0.1")
    until(lambda: "watching" in agent.log.read_text())
    put("1.dcm")
    until(lambda: agent.json("1.dcm"))
    assert agent.pid is not None
    (decoder,) = decoders_of(agent.pid)
    os.kill(decoder, signal.SIGSTOP)  # it never answers
    put("2.dcm")
    refused = until(lambda: agent.json("2.dcm"))["refused"]
    assert "too long" in refused["came"]
    assert decoder not in decoders_of(agent.pid)
    put("3.dcm")
    assert "refused" not in until(lambda: agent.json("3.dcm"))
    assert agent.terminate() == 0


def test_inference_that_hangs_starves_the_watchdog_and_the_next_start_scores_the_rest(
    agent: Agent, manager: Manager, xrays: Xrays, tmp_path: Path
) -> None:
    import cv2
    import numpy as np

    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    program, agent.program = agent.program, [str(script)]
    options = [*config(agent, "[service]\nstall_s = 1.0\n"), "--settle", "0.1"]
    agent.start(*options, environment=manager.environment(watchdog_s=0.6))
    until(lambda: manager.count("WATCHDOG=1") > 3)
    before = xrays.put(agent.watch / "1.jpg")
    until(lambda: agent.json("1.jpg"))
    cv2.imwrite(str(agent.watch / "2.png"), np.tile(np.arange(333, dtype=np.uint8), (300, 1)))
    until(lambda: any("hung: inference" in message for message in manager.heard))
    after = xrays.put(agent.watch / "3.jpg")
    fed = manager.count("WATCHDOG=1")
    time.sleep(1.0)  # more than the time after which systemd has enough
    assert manager.count("WATCHDOG=1") == fed
    assert agent.pid is not None
    os.kill(agent.pid, signal.SIGABRT)  # systemd.service(5), "WatchdogSec="
    assert agent.wait() == -signal.SIGABRT
    agent.program = program
    agent.start(*options)
    for name in ("2.png", "3.jpg"):
        until(lambda name=name: agent.json(name))
    assert agent.terminate() == 0
    ids = [id for (id,) in agent.journal("SELECT id FROM result")]
    assert len(ids) == len(set(ids)) == 3
    assert {before, after} < set(ids)
