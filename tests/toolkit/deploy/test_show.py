"""What people and scripts are told of a fleet."""

from __future__ import annotations

import io
from typing import Any

import pytest

from firmware_bridge.errors import HostError
from toolkit.deploy.deploy import Report
from toolkit.deploy.fleet import Ended
from toolkit.deploy.inventory import Host
from toolkit.deploy.plan import Plan
from toolkit.deploy.show import is_well, reporter, status_lines, table

HEALTH = {"active": "active", "restarts": 0, "status": "waiting for X-rays"}
RELEASE = {
    "id": "0cb593a182063e92",
    "bundle": {"name": "chest", "created": "2026-02-01T00:00:00Z"},
    "current": True,
    "chosen": {"precision": "int8", "median_ms": 2.7, "runtime": "ai-edge-litert"},
    "signed_by": None,
    "tensorrt": None,
}
STATUS: dict[str, Any] = {
    "current": "0cb593a182063e92",
    "activating": None,
    "health": HEALTH,
    "releases": [RELEASE],
    "failed": [],
}


@pytest.mark.parametrize(
    ("change", "well"),
    [
        ({}, True),
        ({"current": None, "health": None}, False),
        ({"health": None}, False),
        ({"activating": "1"}, False),
        ({"health": {**HEALTH, "active": "failed"}}, False),
        ({"health": {**HEALTH, "status": "problem: MQTT broker b:1883: Not authorized"}}, False),
    ],
)
def test_a_device_is_well_only_when_its_agent_says_so_as_well(change: dict[str, Any], well: bool) -> None:
    assert is_well({**STATUS, **change}) is well


def test_a_long_failure_stands_on_lines_that_fit() -> None:
    error = {"what": "did not prove itself", "expected": "the service to stay up", "came": "it ended; " + "log " * 70}
    failed = {"id": "1" * 16, "error": {**error, "do": "look"}, "now": "release 0123 runs again"}
    shown = list(status_lines("pi", {**STATUS, "failed": [failed]}))
    text = "\n".join(shown)
    assert "did not prove itself" in text
    assert "the service to stay up" in text
    assert text.endswith("then: release 0123 runs again")
    assert max(map(len, text.splitlines())) <= 120
    assert "2.7 ms at its proof" in text


def test_a_path_is_not_broken_at_its_hyphens() -> None:
    path = "/run/credentials/cxr-edge.service/mqtt-password"
    for before in range(40, 110):
        error = {"what": "x", "expected": "x" * before + " " + path, "came": "x", "do": "x"}
        assert path in "\n".join(status_lines("pi", {**STATUS, "failed": [{"id": "1" * 16, "error": error}]}))


def test_the_table_names_the_bundle() -> None:
    plan = Plan("pi", "rpi-os-12", "chest", "0cb593a182063e92", None, None, ())
    error = HostError("off cannot be reached", expected="x", came="x", do="x")
    rows = table([Ended(Host("pi", "pi"), Report("running", plan, None, 9.5)), Ended(Host("off", "off"), error=error)])
    assert rows.splitlines()[0].split() == ["host", "state", "bundle", "release", "seconds"]
    assert rows.splitlines()[1].split() == ["pi", "running", "chest", "0cb593a182063e92", "9.5"]
    assert rows.splitlines()[2].endswith("off cannot be reached")


def test_two_releases_of_one_bundle_are_told_apart() -> None:
    settings = {"config": "[agent]\nthreshold = 0.41", "unit": "", "trusted_keys": "", "app": "a", "site": "b"}
    moments = {"put_together": "2026-02-02T00:00:00Z", "active_since": "2026-02-02T00:01:00Z"}
    old = {**RELEASE, "id": "1" * 16, "current": False, **moments, "settings": settings}
    new = {**RELEASE, **moments, "settings": {**settings, "config": "", "app": "c"}}
    shown = list(status_lines("pi", {**STATUS, "releases": [old, new]}))
    assert shown[2] == "      put together 2026-02-02T00:00:00Z, runs since 2026-02-02T00:01:00Z"
    assert shown[-1].endswith("one that runs: settings: [agent] threshold default → 0.41; code: another version")
    assert len(shown) == 6


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_devices_words_are_no_markup_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with reporter(["pi", "[/odd]"], stream, quiet=False) as news:
        news.step("pi", "said [/boo] [red]")
        news.step("[/odd]", "came")
    assert "said [/boo] [red]" in stream.getvalue()
