"""Whether a release that was just started really works: service, watchdog, an X-ray through the folder, broker."""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy.layout import SERVICE, Layout
from firmware_bridge.deploy.release import BUNDLE_FILE, PROOF, Description, read_json
from firmware_bridge.deploy.systemd import UnitState, log_lines, state_of
from firmware_bridge.errors import DeployError
from firmware_bridge.files import write_atomically
from firmware_bridge.selftest import ANNOUNCED, PREFIX

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TICK_S = 0.1
_BROKER_LIMIT_S = 5.0


def watch_release(
    layout: Layout, description: Description, *, watch_s: float, say: Callable[[str], None], broker: bool = True
) -> None:
    """Watch the service of a release that was just started, until it has proven itself.

    Args:
        layout: the device.
        description: the release.
        watch_s: how long the service must stay up, at least.
        say: called with what was found, check by check.
        broker: a configured broker must be reachable.

    Raises:
        DeployError: it did not prove itself; `came` says why.
    """
    start_s = time.monotonic()
    first = _require_up(state_of(SERVICE), first=None)
    say("service is up")
    with _selftest(layout, description) as answer:
        _xray(answer, first=first, limit_s=max(30.0, watch_s))
    say("an X-ray through the watched folder got its score")
    if description.broker and broker:
        _broker(description.broker)
        say(f"broker {description.broker} is reachable")
    while time.monotonic() - start_s < watch_s:
        _require_up(state_of(SERVICE), first=first)
        time.sleep(_TICK_S * 2)
    last = _require_up(state_of(SERVICE), first=first)
    if last.watchdog_s:
        if last.watchdog_age_s > last.watchdog_s:
            raise _unhealthy("the watchdog to be fed", f"silence for {last.watchdog_age_s:.0f} s")
        say("watchdog is fed")
    say(f"stayed up for {time.monotonic() - start_s:.1f} s")


def _require_up(state: UnitState, *, first: UnitState | None) -> UnitState:
    if first is not None and (state.restarts > first.restarts or state.main_pid != first.main_pid):
        raise _unhealthy("the service to stay up", _how_it_ended(state))
    if state.active != "active" or not state.main_pid:
        raise _unhealthy("the service to be up", f"{state.active} ({state.sub}, {state.result})")
    return state


def _how_it_ended(state: UnitState) -> str:
    if state.result == "watchdog":  # it and our own patience have the same 30 s: either may be first
        return "the agent hangs: the watchdog ended it"
    return f"it ended ({state.result or 'for no known reason'})"


@contextmanager
def _selftest(layout: Layout, description: Description) -> Iterator[Callable[[], str]]:
    """Put a golden X-ray into the watched folder; the callable says what is wrong with its score, or "wait"."""
    folder = layout.root / description.watch.lstrip("/")
    release = layout.release(description.id)
    chosen = str(read_json(release / PROOF)["chosen"]["model"])
    with open_bundle(release / BUNDLE_FILE) as bundle:
        case = next(case for case in bundle.manifest.golden if case.model == chosen)
        image = unlike_any_other(bundle.read(case.file))
    path = folder / f"{PREFIX}{secrets.token_hex(6)}.png"
    hidden = folder / f".{path.name}"
    # Where the agent puts scored and refused X-rays depends on its settings.
    places = [folder, folder / "done", folder / "rejected"]
    besides = [place / f"{path.name}.cxr.json" for place in places]

    def answer() -> str:
        beside = next((one for one in besides if one.is_file()), None)
        if beside is None:
            return "wait"
        record = json.loads(beside.read_bytes())
        probability = record.get("probability")
        if not isinstance(probability, float):
            return f"a refusal: {record.get('refused', {}).get('what', 'of no known reason')}"
        if abs(probability - case.probability) > case.tolerance:
            return f"{probability:.4f} for {case.probability:.4f} ± {case.tolerance:.4f}"
        return ""

    try:
        # Known as ours, so that nobody is told of a patient that there is not.
        write_atomically(ANNOUNCED, hashlib.sha256(image).hexdigest().encode(), mode=0o644)
        hidden.write_bytes(image)
        hidden.chmod(0o644)
        hidden.rename(path)
        yield answer
    finally:
        for left in (hidden, *besides, *(place / path.name for place in places), ANNOUNCED):
            with suppress(OSError):
                left.unlink(missing_ok=True)


def _xray(answer: Callable[[], str], *, first: UnitState, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while (said := answer()) == "wait":
        _require_up(state_of(SERVICE), first=first)
        if time.monotonic() > deadline_s:
            raise _unhealthy(
                f"a golden X-ray in the watched folder to be scored within {limit_s:.0f} s", "nothing: the agent hangs"
            )
        time.sleep(_TICK_S)
    if said:
        raise _unhealthy("a golden X-ray through the watched folder to get the bundle's own score", said)


def unlike_any_other(png: bytes) -> bytes:
    """The same pixels as a file that nobody has seen before: the agent reports a file that it knows only once.

    A tEXt chunk (PNG specification, 11.3.4.3) with random text goes in behind IHDR; other files stay as they are.
    """
    if not png.startswith(PNG_SIGNATURE):
        return png
    end = len(PNG_SIGNATURE) + 25  # IHDR: length, type, 13 bytes, checksum
    content = b"tEXtcxr-edge-selftest\0" + secrets.token_hex(16).encode()
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:end] + chunk + png[end:]


def _broker(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_BROKER_LIMIT_S).close()
    except (OSError, ValueError) as error:
        raise _unhealthy(f"the broker {address} to be reachable from the device", str(error)) from error


def _unhealthy(expected: str, came: str) -> DeployError:
    lines = log_lines(SERVICE, lines=3)
    log = ("; its log ends: " + " | ".join(line.split(": ", 1)[-1] for line in lines)[:300]) if lines else ""
    return DeployError(
        "the new release did not prove itself",
        expected=expected,
        came=came + log,
        do="`cxr-edge logs` shows more; mend that, then deploy again",
    )


def health_now(layout: Layout, description: Description) -> dict[str, Any]:
    """How the service stands, without touching anything.

    Raises:
        DeployError: systemd does not answer.
    """
    state = state_of(SERVICE)
    folder = layout.root / description.watch.lstrip("/")
    return {
        "active": state.active,
        "sub": state.sub,
        "result": state.result,
        "restarts": state.restarts,
        "status": state.status,
        "enabled": state.enabled,
        "watchdog_age_s": round(state.watchdog_age_s, 1) if state.watchdog_s else None,
        "watched_folder": Path(folder).is_dir(),
    }
