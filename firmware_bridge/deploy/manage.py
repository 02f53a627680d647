"""What is asked of a device between deployments: stock, status, logs, which release to go back to, uninstall."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from firmware_bridge.deploy.health import health_now
from firmware_bridge.deploy.history import damaged, history, newest_of_each, ready
from firmware_bridge.deploy.install import is_installed
from firmware_bridge.deploy.layers import known_content, state_of_layer
from firmware_bridge.deploy.layout import ACTIVATION, SERVICE, UPDATE, UPDATE_PATH, Layout
from firmware_bridge.deploy.release import DESCRIPTION, OUTCOME, PROOF, RUNNING, read_if_whole, read_json, read_release
from firmware_bridge.deploy.systemd import log_lines, state_of, systemctl
from firmware_bridge.errors import DeployError
from firmware_bridge.result import iso_utc


def stock(
    layout: Layout, *, wanted: Mapping[str, str], secrets: Sequence[str], every_byte: bool = True
) -> dict[str, Any]:
    """What is there of what a release needs. Reads only.

    Args:
        layout: the device.
        wanted: kind -> hash of the release's layers.
        secrets: names of the secrets that it needs.
        every_byte: read all files, also those that look as when they were read last.
    """
    states = {hash: state_of_layer(layout, hash, every_byte=every_byte) for hash in wanted.values()}
    complete = all(state == "intact" for state in states.values())
    current = layout.linked_id(layout.current)
    running = read_if_whole(layout, current) if current else None
    state = state_of(SERVICE)
    return {
        "layers": states,
        "content": [] if complete else sorted(known_content(layout)),
        "current": current,
        "running": running.shown() if running else None,
        "activating": layout.linked_id(layout.activating),
        "releases": ready(layout, DESCRIPTION),
        "proven": ready(layout, PROOF),
        "newest": newest_of_each(layout),
        "installed": is_installed(layout),
        "secrets": {name: _hash(layout, f"secrets/{name}") for name in secrets},
        "service": {"active": state.active, "enabled": state.enabled, "restarts": state.restarts},
    }


def _hash(layout: Layout, name: str) -> str:
    try:
        return hashlib.sha256((layout.etc / name).read_bytes()).hexdigest()
    except OSError:
        return ""


def status(layout: Layout) -> dict[str, Any]:
    """What runs, how it is, and what could be gone back to.

    Raises:
        DeployError: systemd does not answer.
    """
    current = layout.linked_id(layout.current)
    each = []
    for id in history(layout):
        description = read_release(layout, id)
        proof, ended = read_json(layout.release(id) / PROOF), layout.release(id) / OUTCOME
        each.append(
            {
                "id": id,
                "bundle": dict(description.bundle),
                "target": description.target,
                "chosen": proof.get("chosen"),
                "tensorrt": proof.get("tensorrt"),
                "signed_by": proof.get("signed_by"),
                "current": id == current,
                "put_together": _moment(layout.release(id) / DESCRIPTION),
                "active_since": _moment(ended) if read_json(ended).get("state") == RUNNING else None,
                "settings": description.shown(),
            }
        )
    health = health_now(layout, read_if_whole(layout, current)) if current else None
    return {
        "current": current,
        "activating": layout.linked_id(layout.activating),
        "health": health,
        "releases": each,
        "failed": _failures(layout),
        "disk_free_bytes": shutil.disk_usage(layout.base if layout.base.is_dir() else layout.root).free,
    }


def _moment(path: Path) -> str:
    """When a file was written, by the device's clock: ISO 8601 in UTC."""
    return iso_utc(datetime.fromtimestamp(path.stat().st_mtime, timezone.utc))


def _failures(layout: Layout) -> list[dict[str, Any]]:
    """Releases that did not prove themselves, and why."""
    found = []
    for path in sorted(layout.releases.glob(f"*/{OUTCOME}")):
        content = read_json(path)
        if content.get("error"):
            found.append({"id": path.parent.name, "error": content["error"], "now": content.get("now", "")})
    for id in damaged(layout):
        error = {
            "what": f"release {id} is damaged",
            "expected": f"a {DESCRIPTION} that can be read",
            "came": "one that rotted on the disk, or none",
            "do": "deploy again; the next deployment removes it unless it runs",
        }
        found.append({"id": id, "error": error, "now": "it cannot be gone back to"})
    return found


def logs(*, lines: int, since: str = "") -> list[str]:
    """The log of the service, and of the updates that were asked for by a message.

    Raises:
        DeployError: the journal cannot be read.
    """
    return log_lines(SERVICE, UPDATE, lines=lines, since=since)


def choose_rollback(layout: Layout, to: str | None) -> str:
    """The release to go back to: the one that `to` begins the id of, or the one that ran before the current one.

    Raises:
        DeployError: there is none, or `to` leaves it open.
    """
    current = layout.linked_id(layout.current)
    ran = [id for id in history(layout) if id != current]
    # Under today's keys a release that differed in its keys alone is the one that runs: nobody would have gone back.
    running = read_if_whole(layout, current) if current else None
    keys: dict[str, Any] = {"trusted_keys": running.trusted_keys} if running else {}
    others = [id for id in ran if replace(read_release(layout, id), **keys).id != current]
    if not others:
        alone = f"{current} alone, which runs"
        same = f"{' and '.join(ran)}, with today's trusted keys the same as {current}, which runs"
        raise DeployError(
            "there is nothing to go back to",
            expected="a release that ran before the current one",
            came=(same if ran else alone) if current else "no release",
            do="deploy an older bundle with --allow-downgrade" if current else "deploy a bundle with `cxr-edge deploy`",
        )
    if not to:
        return others[-1]
    matching = [id for id in others if id.startswith(to)]
    if len(matching) != 1:
        runs = f"{current}, which runs already" if current and current.startswith(to) else "none of them"
        raise DeployError(
            f"'{to}' names no release to go back to",
            expected="the first digits of one of " + ", ".join(_named(layout, id) for id in reversed(others)),
            came=f"those of {' and of '.join(matching)}" if matching else runs,
            do="mend --to, or leave it out: then it is the first of these",
        )
    return matching[0]


def _named(layout: Layout, id: str) -> str:
    bundle = read_release(layout, id).bundle
    return f"{id} ({bundle['name']} of {bundle['created']})"


def uninstall(layout: Layout, *, results: bool) -> list[str]:
    """Stop and remove everything; journal, results, keys and the watched folder stay, but for `results`.

    Args:
        layout: the device.
        results: the agent's journal and device key go too. X-rays and the JSON beside them never do.

    Raises:
        OSError: something cannot be removed.
    """
    done = []
    for unit in (UPDATE_PATH, UPDATE, ACTIVATION, SERVICE):
        if (layout.units / unit).is_symlink() or (layout.units / unit).exists():
            systemctl("disable", "--now", "--quiet", unit, check=False)
            (layout.units / unit).unlink(missing_ok=True)
            done.append(f"unit {unit}")
    systemctl("daemon-reload")
    if layout.command.is_symlink():
        layout.command.unlink()
        done.append("command cxr-edge")
    gone = [layout.base, layout.etc, *([layout.agent_state] if results else [])]
    for folder in gone:
        if folder.is_dir():
            shutil.rmtree(folder)
            done.append(f"/{folder.relative_to(layout.root)}")
    return done
