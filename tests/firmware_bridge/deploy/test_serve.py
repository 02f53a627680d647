"""The device's end of a connection: which end of a switch is told, and what is gone back to."""

from __future__ import annotations

import io
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.deploy.earlier import roll_back
from firmware_bridge.deploy.history import remember
from firmware_bridge.deploy.layers import commit, prepare, receive
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.listing import dump_listing, layer_hash
from firmware_bridge.deploy.orders import locked, order
from firmware_bridge.deploy.release import OUTCOME, RUNNING, Description, switch, write_json, write_release
from firmware_bridge.deploy.serve import Server
from firmware_bridge.errors import DeployError
from tests.firmware_bridge.deploy.described import DESCRIPTION, layered
from tests.firmware_bridge.deploy.test_layers import CONTENT, listing, packed

__all__ = ["listing"]  # a fixture
NEWER = replace(DESCRIPTION, bundle={**DESCRIPTION.bundle, "created": "2026-02-01T00:00:00Z"})


def ask(layout: Layout, **request: Any) -> Any:
    sink = io.BytesIO()
    Server(io.BytesIO(json.dumps(request).encode() + b"\n"), sink, layout).run()
    return json.loads(sink.getvalue().splitlines()[-1])


def run(layout: Layout, description: Description) -> str:
    write_json(write_release(layout, description) / OUTCOME, {"state": RUNNING})
    switch(layout, layout.current, description.id)
    remember(layout, description)
    return description.id


def test_the_end_of_an_earlier_switch_is_not_told_for_one_that_was_never_ordered(tmp_path: Path, log: Path) -> None:
    layout = layered(tmp_path)
    old = run(layout, DESCRIPTION)
    run(layout, NEWER)
    lost = ask(layout, do="settle", id=old, watch_s=1.0, token="ours")
    assert lost["error"]["what"] == "the switch was not begun"
    order(layout, old, watch_s=1.0, keep=3, reason="rollback", token="ours")
    switch(layout, layout.activating, None)  # as the unit does at its end
    write_json(layout.release(old) / OUTCOME, {"state": RUNNING})
    assert ask(layout, do="settle", id=old, watch_s=1.0, token="ours") == {"done": {"state": RUNNING}}
    assert "error" in ask(layout, do="settle", id=old, watch_s=1.0, token="another's")
    assert log.read_text()


@pytest.mark.parametrize(
    ("name", "before", "after"), [("app/a.py", b"a = 1", b"a = 3"), ("release.json", b"rpi-os-12", b"rpi-os-13")]
)
def test_what_rotted_is_not_gone_back_to(
    tmp_path: Path, log: Path, listing: Any, name: str, before: bytes, after: bytes
) -> None:
    layout = layered(tmp_path)
    hash = layer_hash(listing)
    prepare(layout, dump_listing(listing))
    receive(layout, hash, packed(CONTENT))
    commit(layout, hash)
    whole = replace(DESCRIPTION, layers=dict.fromkeys(DESCRIPTION.layers, hash))
    old = run(layout, whole)
    run(layout, NEWER)
    file = layout.release(old) / name
    state = file.stat()
    file.write_bytes(file.read_bytes().replace(before, after))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))  # a worn card tells nobody
    refused = ask(layout, do="prove_earlier", to=old)
    assert refused["error"]["kind"] == "DeployError"
    assert refused["error"]["what"] in ("the release is not what it was", "there is nothing to go back to")
    assert layout.linked_id(layout.current) == NEWER.id
    assert not log.read_text()


@pytest.mark.parametrize(("changes", "told"), [(True, "somebody else changed"), (False, "is not what it was")], ids=str)
def test_a_rollback_by_hand_that_waited_goes_nowhere_only_where_something_changed(
    tmp_path: Path, log: Path, changes: bool, told: str
) -> None:
    layout = layered(tmp_path)
    old = run(layout, DESCRIPTION)
    run(layout, NEWER)
    held = locked(layout)

    def somebody_else() -> None:
        if changes:
            switch(layout, layout.current, old)
        held.__exit__(None, None, None)

    held.__enter__()
    other = threading.Timer(0.5, somebody_else)  # the rollback has seen by then what runs
    other.start()
    with pytest.raises(DeployError, match=told):
        roll_back(layout, None, say=lambda _line: None)
    other.join()
    assert not log.read_text()
