"""Plans: what is there is not sent, nothing to do is nothing, older is refused; and what a device is told to run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.agent_settings import AgentSettings
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.listing import Entry
from firmware_bridge.deploy.proving import chosen_settings
from firmware_bridge.deploy.release import Description
from firmware_bridge.errors import DowngradeError, PreflightError
from firmware_bridge.settings import load_settings
from toolkit.deploy.deploy import engine_lines
from toolkit.deploy.layer import Layer
from toolkit.deploy.plan import ENGINES, INSTALL, PROVE, RELEASE, SWITCH, UPLOAD, Plan, make_plan
from toolkit.deploy.targets import choose_target
from toolkit.deploy.wanted import Wanted

from .test_targets import PI_12


def layer(name: str, size_bytes: int) -> Layer:
    return Layer({name: Entry(f"{size_bytes:064x}", size_bytes)}, {name: b""})


LAYERS = {"app": layer("app.py", 1_000_000), "site": layer("site.so", 100_000_000), "bundle": layer("b.cxr", 13)}
DESCRIPTION = Description(
    layers={kind: one.hash for kind, one in LAYERS.items()},
    bundle={"name": "chest", "id": "1", "created": "2026-02-01T00:00:00Z"},
    target="rpi-os-12",
    config="",
    unit="",
    trusted_keys="",
    watch="/srv/cxr-edge",
)
WANTED = Wanted(DESCRIPTION, LAYERS, {})
EMPTY: dict[str, Any] = {
    "layers": {},
    "content": [],
    "current": None,
    "activating": None,
    "releases": [],
    "proven": [],
    "newest": {},
    "installed": False,
    "secrets": {},
    "service": {"active": "inactive", "enabled": False, "restarts": 0},
}
DONE: dict[str, Any] = {
    **EMPTY,
    "layers": {one.hash: "intact" for one in LAYERS.values()},
    "current": DESCRIPTION.id,
    "releases": [DESCRIPTION.id],
    "proven": [DESCRIPTION.id],
    "newest": {"chest": "2026-02-01T00:00:00Z"},
    "installed": True,
    "service": {"active": "active", "enabled": True, "restarts": 0},
}


def plan(stock: dict[str, Any], wanted: Wanted = WANTED, **options: Any) -> Plan:
    target = choose_target("rpi", PI_12)
    assert target is not None
    facts = replace(PI_12, **options.pop("facts", {}))
    return make_plan("pi", facts, target, wanted, stock, allow_downgrade=options.get("allow_downgrade", False))


def steps(stock: dict[str, Any], **options: Any) -> list[str]:
    return [step.do for step in plan(stock, **options).steps]


def test_a_first_deployment_does_everything() -> None:
    assert steps(EMPTY) == [INSTALL, UPLOAD, UPLOAD, UPLOAD, RELEASE, PROVE, SWITCH]


def test_engines_are_built_before_the_proof_where_there_is_tensorrt() -> None:
    wanted = replace(WANTED, description=replace(DESCRIPTION, extra={"tensorrt": "10.3.0"}))
    found = plan({**DONE, "releases": [], "proven": [], "current": None}, wanted)
    assert [step.do for step in found.steps] == [RELEASE, ENGINES, PROVE, SWITCH]
    assert "10.3.0" in found.steps[1].text
    # Another TensorRT is another release: its engines must be built anew.
    newer = replace(DESCRIPTION, extra={"tensorrt": "10.7.0"})
    assert len({DESCRIPTION.id, wanted.description.id, newer.id}) == 3


def test_what_became_of_each_engine_is_told() -> None:
    rows = [
        {"model": "a.onnx", "error": "", "built": True, "seconds": 181.2},
        {"model": "b.onnx", "error": "", "built": False, "seconds": 0.0},
        {"model": "c.onnx", "error": "trtexec built no TensorRT engine: [E] no kernel"},
    ]
    assert list(engine_lines({"reason": "", "engines": rows})) == [
        "TensorRT engine for a.onnx: built in 181 s",
        "TensorRT engine for b.onnx: there already",
        "no TensorRT engine for c.onnx: trtexec built no TensorRT engine: [E] no kernel",
    ]
    assert list(engine_lines({"reason": "no GPU", "engines": []})) == ["no TensorRT engine: no GPU"]


@pytest.mark.parametrize(
    ("run_by", "told"),
    [
        ("tflite", ["CXR_EDGE_AGENT_PRECISION=fp16", "CXR_EDGE_AGENT_THREADS=1"]),
        ("onnxruntime", ["CXR_EDGE_AGENT_RUNTIME=onnxruntime"]),
        ("tensorrt", ["CXR_EDGE_AGENT_RUNTIME=tensorrt", "CXR_EDGE_AGENT_ENGINES=/opt/cxr-edge/engines"]),
    ],
)
def test_the_agent_is_told_what_the_proof_chose(tmp_path: Path, run_by: str, told: list[str]) -> None:
    lines = chosen_settings({"precision": "fp16", "threads": 1, "run_by": run_by}, Layout(tmp_path))
    assert lines[-len(told) :] == told
    environment = dict(line.split("=", 1) for line in lines)
    options = load_settings(None, environment=environment).section(AgentSettings)
    assert (options.precision, options.runtime) == ("fp16", run_by)


def test_what_is_as_it_shall_be_is_left_alone() -> None:
    found = plan(DONE)
    assert found.nothing
    assert list(found.lines())[1] == "  nothing to change"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layers": {**DONE["layers"], LAYERS["bundle"].hash: "absent"}}, [UPLOAD, RELEASE, PROVE, SWITCH]),
        ({"layers": {**DONE["layers"], LAYERS["site"].hash: "damaged"}}, [UPLOAD, RELEASE, PROVE, SWITCH]),
        ({"proven": []}, [PROVE, SWITCH]),
        ({"releases": []}, [RELEASE, PROVE, SWITCH]),
        ({"current": "0" * 16}, [SWITCH]),
        ({"service": {"active": "failed", "enabled": True, "restarts": 9}}, [SWITCH]),
        ({"service": {"active": "active", "enabled": False, "restarts": 0}}, [SWITCH]),
    ],
)
def test_only_what_is_missing_is_done(change: dict[str, Any], expected: list[str]) -> None:
    assert steps({**DONE, **change}) == expected


def test_settings_and_keys_are_told_where_anything_changes() -> None:
    wanted = replace(WANTED, told=("settings: [mqtt]; broker b:1883",))
    assert "  settings: [mqtt]; broker b:1883" in plan(EMPTY, wanted).lines()
    assert "settings" not in "\n".join(plan(DONE, wanted).lines())


def test_a_plan_says_what_changes_against_what_runs_where_the_device_tells_that() -> None:
    running = {**DESCRIPTION.shown(), "config": "[agent]\nthreshold = 0.41\n"}
    wanted = replace(WANTED, description=replace(DESCRIPTION, config="[agent]\nthreshold = 0.5\n"))
    other = {**DONE, "current": "0" * 16}
    assert "  changed settings: [agent] threshold 0.41 → 0.5" in plan({**other, "running": running}, wanted).lines()
    assert "  changed settings: none" in plan({**other, "running": DESCRIPTION.shown()}).lines()
    for silent in (other, {**other, "running": None}):
        assert "changed" not in "\n".join(plan(silent, wanted).lines())


def test_equal_files_are_counted_as_they_are_sent_once() -> None:
    entry = Entry("e" * 64, 5)
    twins = Layer({"a/__init__.py": entry, "b/__init__.py": entry}, {})
    wanted = Wanted(replace(DESCRIPTION, layers={"app": twins.hash}), {"app": twins}, {})
    assert "send app: 1 of 1 files" in "\n".join(plan(EMPTY, wanted).lines())


def test_files_that_lie_in_another_layer_are_not_sent() -> None:
    bundle = LAYERS["bundle"].listing["b.cxr"].sha256
    stock = {**DONE, "layers": {**DONE["layers"], LAYERS["bundle"].hash: "absent"}, "content": [bundle]}
    assert "0 of 1 files, 0.0 MB" in plan(stock).steps[0].text


def test_a_secret_that_changed_is_handed_over_and_never_shown() -> None:
    wanted = Wanted(DESCRIPTION, LAYERS, {"mqtt-password": "hunter2"})
    found = plan(DONE, wanted)
    assert [step.do for step in found.steps] == [INSTALL, RELEASE, PROVE, SWITCH]
    assert "hunter2" not in "\n".join(found.lines())
    assert plan({**DONE, "secrets": wanted.secret_hashes}, wanted).nothing


def test_an_older_bundle_is_refused_unless_asked_for() -> None:
    stock = {**DONE, "newest": {"chest": "2026-02-02T00:00:00Z"}}
    with pytest.raises(DowngradeError, match="older than what ran there") as caught:
        plan(stock)
    assert "--allow-downgrade" in caught.value.do
    assert plan(stock, allow_downgrade=True).nothing
    assert plan({**DONE, "newest": {"another": "2027-01-01T00:00:00Z"}}).nothing


def test_room_is_asked_for_what_is_sent_and_no_more() -> None:
    little = {"disk_free_bytes": 150_000_000}
    with pytest.raises(PreflightError, match="too little room"):
        plan(EMPTY, facts=little)
    assert plan(DONE, facts=little).nothing
    only_bundle = {**DONE, "layers": {**DONE["layers"], LAYERS["bundle"].hash: "absent"}}
    assert len(plan(only_bundle, facts=little).steps) == 4


def test_an_unsettled_switch_is_not_nothing() -> None:
    found = plan({**DONE, "activating": "0" * 16})
    assert not found.nothing
    assert "interrupted" in list(found.lines())[1]


def test_a_cache_of_archives_serves_every_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tarfile

    from toolkit.deploy.layer import archive

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "b").write_bytes(b"bb")
    one = Layer({"a": Entry("0" * 64, 1), "b": Entry("1" * 64, 2)}, {"a": b"a", "b": tmp_path / "b"})
    first = archive(one, ["b", "a"])
    before = first.stat().st_ino
    os.utime(first, (0, 0))
    assert archive(one, ["a", "b"]) == first
    assert archive(one, ["b"]) != first
    assert first.stat().st_ino == before  # old, and in use
    os.utime(first, (0, 0))
    assert archive(one, ["a"]) != first
    assert not first.exists()  # thirty days old, and gone when the next one was made
    first = archive(one, ["b", "a"])
    with tarfile.open(first) as tar:
        assert {member.name: member.size for member in tar} == {"a": 1, "b": 2}
