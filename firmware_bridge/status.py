"""How a running agent is, as one JSON object: for the page, for metrics, and for `cxr-edge agent status`."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from firmware_bridge.disk import space_at
from firmware_bridge.errors import ResourceError
from firmware_bridge.parts import Context
from firmware_bridge.result import NOTICE, utc_now

SOCKET = "status.sock"
_TIMEOUT_S = 5.0
_MOST_PARTS = 1000
# Each of them is a part of the answer to "does it work?"; a broker or an archive that is away is not: nothing is lost
# meanwhile. Neither is a runtime that gave way to TFLite on the CPU: X-rays are scored, more slowly.
_HARMLESS = (
    *("mqtt", "requests", "update", "page", "watch", "runtime"),
    *("dicom reports", "fhir", "fhir folder", "orthanc"),
)
_OUTBOXES = ("dicom", "fhir", "orthanc")


def snapshot(context: Context) -> dict[str, Any]:
    """How the agent is now. Nothing in it names a patient or a file."""
    bundle = context.bundle
    facts = context.health.facts()
    return {
        "notice": NOTICE,
        "time": utc_now(),
        "device": context.device,
        "pid": os.getpid(),
        "bundle": {"id": bundle.id, "name": bundle.manifest.name},
        "label_positive": bundle.manifest.label_positive,
        "threshold": context.threshold,
        "queue": {"waiting": context.intake.waiting, **_counts(context)},
        "this_run": {
            "scored": context.tally.scored,
            "positive": context.tally.by_decision["positive"],
            "refused": context.tally.refused,
        },
        "broker": facts.get("mqtt"),
        "outboxes": {name: dict(facts[name]) for name in _OUTBOXES if name in facts},
        "audit": facts.get("audit"),
        "model": facts.get("model"),
        "disk": _disk(context.state),
        "problems": context.health.problems(),
    }


def works(problems: dict[str, str]) -> bool:
    """Whether X-rays are scored and their results kept."""
    return all(name in _HARMLESS for name in problems)


def _counts(context: Context) -> dict[str, int]:
    try:
        counts = context.journal.counts()
    except ResourceError:
        return {}  # the recorder tells of the broken disk
    return {"unsent": counts.unsent, "unanswered": counts.unanswered, "results": counts.results}


def _disk(folder: Path) -> dict[str, int]:
    try:
        return asdict(space_at(folder))
    except OSError:
        return {}


def make_part(context: Context) -> StatusPart | None:
    """The part; a single run needs none."""
    return None if context.once else StatusPart(context)


class StatusPart:
    """Answers on a socket in the state folder, which its user and root alone can reach. Nothing is written for it."""

    name = "status"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stop = threading.Event()

    def run(self) -> None:
        """Answer until `stop`.

        Raises:
            OSError: the socket cannot be made.
        """
        path = self._context.state / SOCKET
        new = path.with_name(f".{SOCKET}")
        new.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as server:
            with _short(new) as address:
                server.bind(address)
            new.chmod(0o600)
            server.listen(8)
            new.replace(path)  # where the socket has its name, it answers, and to nobody else
            server.settimeout(1.0)
            while not self._stop.is_set():
                self._answer(server)
        path.unlink(missing_ok=True)

    def _answer(self, server: socket.socket) -> None:
        try:
            client, _ = server.accept()
        except TimeoutError:
            return
        with client:
            client.settimeout(_TIMEOUT_S)
            try:
                client.sendall(json.dumps(snapshot(self._context)).encode())
            except OSError:
                return  # whoever asked has left

    def stop(self) -> None:
        """End."""
        self._stop.set()


def ask(state: Path) -> dict[str, Any] | None:
    """What the agent of that state folder says of itself; None: none runs there, or none that answers.

    Raises:
        ResourceError: this user may not ask.
    """
    parts = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_TIMEOUT_S)
            with _short(state / SOCKET) as address:
                client.connect(address)
            while part := client.recv(65536):
                parts.append(part)
                if len(parts) > _MOST_PARTS:
                    raise ValueError("an answer without end")
        answer: dict[str, Any] = json.loads(b"".join(parts))
        return answer
    except (FileNotFoundError, ConnectionRefusedError, TimeoutError, ConnectionResetError, ValueError):
        return None
    except OSError as error:
        raise ResourceError(
            f"the agent of {state} cannot be asked",
            expected="a state folder that this user may use",
            came=error.strerror or str(error),
            do="run this as the agent's user, or as root",
        ) from error


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """unix(7): an address has 108 bytes at most, a path may have more. The open folder gives it a short name."""
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{path.name}"
    finally:
        os.close(handle)
