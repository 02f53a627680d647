"""Two processes that train one model come to what one comes to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.errors import ConfigError
from toolkit.config import read_config
from toolkit.deployable import require_deployable
from toolkit.workers import gather

_SCRIPT = Path(__file__).parent / "one_of_workers.py"


def _start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    told = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | environment
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, _SCRIPT, folder], env=told, stdout=log, stderr=log)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_two_workers_end_with_the_weights_and_losses_of_one(tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    running = [_start(tmp_path / "one")]
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        running.append(_start(tmp_path / f"of-two-{index}", TF_CONFIG=json.dumps(cluster)))
    try:
        for process, folder in zip(running, ("one", "of-two-0", "of-two-1"), strict=True):
            assert process.wait(600) == 0, (tmp_path / folder / "log").read_text()[-3000:]
    finally:
        for process in running:
            process.kill()
            process.wait()
    one, *two = (dict(np.load(tmp_path / f / "end.npz")) for f in ("one", "of-two-0", "of-two-1"))
    assert [int(end.pop("workers")) for end in (one, *two)] == [1, 2, 2]
    for end in two:
        for name, value in one.items():
            np.testing.assert_allclose(end[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    for name, value in two[0].items():
        np.testing.assert_array_equal(two[1][name], value, err_msg=name)


@pytest.mark.parametrize("told", [None, "", "{}", "not JSON", '{"cluster": {"worker": ["a:1"]}, "task": {}}'])
def test_workers_that_nobody_names_are_refused(told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if told is not None:
        monkeypatch.setenv("TF_CONFIG", told)
    with pytest.raises(ConfigError, match="who trains together"):
        gather("multi-worker", batch_size=32)


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]}, "task": {"index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ConfigError, match="--batch-size 30"):
        gather("multi-worker", batch_size=32)


def test_pruning_and_quantization_are_not_for_several_workers() -> None:
    with pytest.raises(ConfigError, match="for one process"):
        require_deployable(read_config(None, {"distribute": "multi-worker"}))
