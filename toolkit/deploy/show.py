"""Deployments on a terminal: progress of each device, then a table; or lines, where nobody watches."""

from __future__ import annotations

import json
import textwrap
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from firmware_bridge.result import NOTICE
from toolkit.deploy.deploy import Report, chosen_line
from toolkit.deploy.differences import TRUSTED_KEYS, differences
from toolkit.deploy.fleet import Ended

_SHOWN_EVERY_S = 2.0
_WIDTH, _INDENT = 110, "      "
PROBLEM = "problem:"  # how the agent's word to systemd begins when something is wrong (firmware_bridge/service.py)


class Lines:
    """Progress as lines of text."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._start_s = time.monotonic()
        self._shown_s: dict[str, float] = {}

    def step(self, host: str, text: str) -> None:
        """A step begins."""
        self._line(host, text)

    def sent(self, host: str, done_bytes: int, total_bytes: int) -> None:
        """So much of an upload has arrived."""
        now_s = time.monotonic()
        if now_s - self._shown_s.get(host, 0.0) >= _SHOWN_EVERY_S:
            self._shown_s[host] = now_s
            self._line(host, f"  {done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB")

    def _line(self, host: str, text: str) -> None:
        if not self._quiet:
            self._stream.write(f"{time.monotonic() - self._start_s:6.1f} s  {host}: {text}\n")
            self._stream.flush()


class Bars:
    """Progress as a live table: a row for each device."""

    def __init__(self, progress: Any, hosts: Sequence[str]) -> None:
        self._progress = progress
        self._tasks = {name: progress.add_task(name, total=None, step="waiting") for name in hosts}

    def step(self, host: str, text: str) -> None:
        """A step begins."""
        self._progress.update(self._tasks[host], step=text, total=None, completed=0)

    def sent(self, host: str, done_bytes: int, total_bytes: int) -> None:
        """So much of an upload has arrived."""
        self._progress.update(self._tasks[host], completed=done_bytes, total=total_bytes)


@contextmanager
def reporter(hosts: Sequence[str], stream: TextIO, *, quiet: bool) -> Iterator[Lines | Bars]:
    """Bars on a terminal, lines elsewhere."""
    if quiet or not stream.isatty():
        yield Lines(stream, quiet=quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    # On a narrow terminal the step's words are cut, and the time is not.
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        # A device's words are no markup.
        TextColumn("{task.fields[step]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        yield Bars(progress, hosts)


def table(ended: Sequence[Ended[Report]]) -> str:
    """How it ended for each device, in aligned columns."""
    rows = [("host", "state", "bundle", "release", "seconds", "")]
    rows += [(one.host.name, *_cells(one)) for one in ended]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in rows
    )


def _cells(one: Ended[Report]) -> tuple[str, str, str, str, str]:
    if one.error is not None:
        return ("failed", "-", "-", "-", one.error.what)
    if one.value is None:
        return ("not begun", "-", "-", "-", "too many failed before")
    report = one.value
    chosen = chosen_line(report.proof) if report.proof else ""
    return (report.state, report.plan.bundle, report.plan.release, f"{report.took_s:.1f}", chosen)


def errors(ended: Sequence[Ended[Any]]) -> None:
    """Each error in full, on standard error; the traceback only of what nobody foresaw."""
    for one in ended:
        if one.bug is not None:
            click.echo("".join(traceback.format_exception(one.bug)), err=True, nl=False)
        if one.error is not None:
            click.echo(f"error: {one.error}", err=True)


def as_json(ended: Sequence[Ended[Report]]) -> str:
    """The table for programs."""
    return json.dumps({"schema": 1, "notice": NOTICE, "hosts": [_row(one) for one in ended]}, indent=1)


def _row(one: Ended[Report]) -> dict[str, Any]:
    row: dict[str, Any] = {"host": one.host.name}
    if one.error is not None:
        return {**row, "state": "failed", "exit_code": one.error.exit_code, "error": error_json(one.error)}
    if one.value is None:
        return {**row, "state": "not begun"}
    report = one.value
    return {
        **row,
        "state": report.state,
        "bundle": report.plan.bundle,
        "release": report.plan.release,
        "before": report.plan.current,
        "target": report.plan.target,
        "steps": [step.text for step in report.plan.steps],
        "told": list(report.plan.told),
        "chosen": report.proof["chosen"] if report.proof else None,
        "seconds": round(report.took_s, 2),
    }


def error_json(error: Any) -> dict[str, str]:
    """An error of our tree."""
    return {"kind": type(error).__name__, **error.told()}


def is_well(status: Any) -> bool:
    """Whether a device runs a release, and nothing about it is odd: its service is up and reports no problem."""
    if not status or not status["current"] or status["activating"] or not status["health"]:
        return False
    health = status["health"]
    return bool(health["active"] == "active" and not health["status"].startswith(PROBLEM))


def status_lines(host: str, status: Any) -> Iterator[str]:
    """What a device runs, for people."""
    health = status["health"]
    if not status["current"] or not health:
        yield f"{host}: nothing runs"
    else:
        more = f", {health['status']}" if health["status"] else ""
        yield f"{host}: release {status['current']}, {health['active']}, {health['restarts']} restarts{more}"
    if status["activating"]:
        yield f"  the switch to {status['activating']} is not settled: `cxr-edge deploy` settles it"
    running = next((one.get("settings") for one in status["releases"] if one["current"]), None)
    for one in reversed(status["releases"]):
        yield from _release_lines(one, running)
    for one in status["failed"]:
        error = one["error"]
        yield f"  ! {one['id']}  {error['what']}"
        yield _wrapped(f"expected: {error['expected']}")
        yield _wrapped(f"came: {error['came']}")
        if one.get("now"):
            yield _wrapped(f"then: {one['now']}")


def _release_lines(one: Any, running: Any) -> Iterator[str]:
    """A release that is kept; `running` are the settings of the one that runs."""
    bundle, chosen = one["bundle"], one["chosen"]
    mark = "*" if one["current"] else " "
    words = [f"{bundle['name']} of {bundle['created']}"]
    if chosen:
        words.append(f"{chosen['precision']}, {chosen['median_ms']:.1f} ms at its proof ({chosen['runtime']})")
    if one["signed_by"]:
        words.append(f"signed by {one['signed_by']['name']}")
    yield f"  {mark} {one['id']}  {', '.join(words)}"
    if one.get("put_together"):
        since = "runs since" if one["current"] else "last switched to"
        active = f", {since} {one['active_since']}" if one.get("active_since") else ""
        yield f"{_INDENT}put together {one['put_together']}{active}"
    if one["current"] and one["tensorrt"]:
        yield f"{_INDENT}not with TensorRT: {one['tensorrt']}"
    if not one["current"] and running and one.get("settings"):
        found = differences(running, one["settings"])
        if found:
            kept = {TRUSTED_KEYS: " (a rollback keeps today's)"}
            told = "; ".join(f"{name}: {how}{kept.get(name, '')}" for name, how in found.items())
            yield _wrapped(f"against the one that runs: {told}")


def _wrapped(text: str) -> str:
    # Not click.wrap_text: it breaks at hyphens, and half a path cannot be copied.
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT + "  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def status_json(one: Ended[Any]) -> dict[str, Any]:
    """The same for programs."""
    if one.error is not None:
        return {"host": one.host.name, "error": error_json(one.error)}
    return {"host": one.host.name, "well": is_well(one.value), **(one.value or {})}
