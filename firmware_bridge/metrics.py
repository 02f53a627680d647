"""Metrics for Prometheus, in its text format (prometheus.io, "Exposition formats", version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "cxr_edge_"
# Prometheus wants base units in the names.
_UNITS = {"_ms": ("_seconds", 1e-3), "_s": ("_seconds", 1.0), "_c": ("_celsius", 1.0)}


def exposition(snapshot: Mapping[str, Any], telemetry: Mapping[str, Any]) -> str:
    """All metrics.

    Args:
        snapshot: see `status.snapshot`.
        telemetry: see `telemetry.Telemetry.sample`.
    """
    return "".join(f"{line}\n" for line in _lines(snapshot, telemetry))


def _lines(snapshot: Mapping[str, Any], telemetry: Mapping[str, Any]) -> Iterator[str]:
    labels = {"device": snapshot["device"], "bundle": snapshot["bundle"]["id"], "version": telemetry.get("version", "")}
    yield from _metric("info", "gauge", "What runs here.", [(labels, 1)])
    run = snapshot["this_run"]
    scored = [({"decision": "positive"}, run["positive"]), ({"decision": "negative"}, run["scored"] - run["positive"])]
    text = "X-rays scored since the start, by decision. Not for diagnosis."
    yield from _metric("scored_total", "counter", text, scored)
    yield from _metric("refused_total", "counter", "Files refused since the start.", [({}, run["refused"])])
    problems = [({"name": name}, 1) for name in sorted(snapshot["problems"])]
    yield from _metric("problem", "gauge", "Problems that are there now.", problems)
    if snapshot["broker"]:
        connected = 0 if snapshot["broker"].get("error") else 1
        yield from _metric("broker_connected", "gauge", "Whether the MQTT broker takes results.", [({}, connected)])
    if snapshot["audit"]:
        yield from _metric("audit_lines", "gauge", "Lines of the audit log.", [({}, snapshot["audit"]["lines"])])
    for name, value in telemetry.items():
        if isinstance(value, (int, float)):
            yield from _gauge(name, float(value))


def _gauge(name: str, value: float) -> Iterator[str]:
    for ending, (unit, factor) in _UNITS.items():
        if name.endswith(ending):
            name, value = name[: -len(ending)] + unit, value * factor
            break
    yield from _metric(name, "gauge", name.replace("_", " ").capitalize() + ".", [({}, value)])


def _metric(name: str, kind: str, text: str, values: Sequence[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    full = _PREFIX + name
    yield f"# HELP {full} {text}"
    yield f"# TYPE {full} {kind}"
    for labels, value in values:
        inside = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
        yield f"{full}{{{inside}}} {_number(value)}" if inside else f"{full} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
