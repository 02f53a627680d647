"""Metrics for Prometheus, in its text format (prometheus.io, "Exposition formats", version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "cxr_edge_"
_OUTBOX_STATES = {
    "waiting": "Reports that a server does not have yet.",
    "parked": "Reports that a server refused for good: a person must look.",
    "sent": "Reports that a server took in the last 90 days.",
}
# Prometheus wants base units in the names.
_UNITS = {"_ms": ("_seconds", 1e-3), "_s": ("_seconds", 1.0), "_c": ("_celsius", 1.0)}
_LATEST = "of the latest results"
_FIRMWARE = "as the Raspberry Pi's firmware says: 1 yes, 0 no."
# What each value of `telemetry.Telemetry.sample` means.
TEXTS = {
    "uptime_s": "Since the agent started.",
    "waiting_files": "Files in the watched folder that are not scored yet.",
    "temperature_c": "Of the hottest thermal zone.",
    "load_1min": "Load average of the last minute (man 5 proc).",
    "under_voltage": f"The supply voltage is too low now, {_FIRMWARE}",
    "frequency_capped": f"The processor is held to a lower clock now, {_FIRMWARE}",
    "throttled": f"The processor is throttled now, {_FIRMWARE}",
    "soft_temperature_limit": f"The soft temperature limit holds now, {_FIRMWARE}",
    "under_voltage_since_boot": f"The supply voltage was too low since the start, {_FIRMWARE}",
    "frequency_capped_since_boot": f"The processor was held to a lower clock since the start, {_FIRMWARE}",
    "throttled_since_boot": f"The processor was throttled since the start, {_FIRMWARE}",
    "soft_temperature_limit_since_boot": f"The soft temperature limit held since the start, {_FIRMWARE}",
    "memory_used_bytes": "Resident memory of the agent.",
    "memory_available_bytes": "Memory of the machine that programs can still have.",
    "memory_total_bytes": "Memory of the machine.",
    "disk_free_bytes": "Free on the disk of the state folder.",
    "disk_total_bytes": "Size of the disk of the state folder.",
    "unsent_results": "Results that no broker has taken yet.",
    "results": "Results in the journal.",
    "decode_p50_ms": f"Decoding an X-ray, median {_LATEST}.",
    "decode_p95_ms": f"Decoding an X-ray, 95th percentile {_LATEST}.",
    "infer_p50_ms": f"Inference, median {_LATEST}.",
    "infer_p95_ms": f"Inference, 95th percentile {_LATEST}.",
}


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
    for state, text in _OUTBOX_STATES.items():
        values = [({"part": name}, facts[state]) for name, facts in snapshot["outboxes"].items()]
        if values:
            yield from _metric(f"reports_{state}", "gauge", text, values)
    if snapshot["audit"]:
        yield from _metric("audit_lines", "gauge", "Lines of the audit log.", [({}, snapshot["audit"]["lines"])])
    for name, value in telemetry.items():
        if isinstance(value, (int, float)):
            yield from _gauge(name, float(value), text=TEXTS[name])


def _gauge(name: str, value: float, *, text: str) -> Iterator[str]:
    for ending, (unit, factor) in _UNITS.items():
        if name.endswith(ending):
            name, value = name[: -len(ending)] + unit, value * factor
            break
    yield from _metric(name, "gauge", text, [({}, value)])


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
