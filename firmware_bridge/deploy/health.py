"""Whether a release that was just started really works: service, watchdog, an X-ray through the folder, broker."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from firmware_bridge.deploy.layout import SERVICE, Layout
from firmware_bridge.deploy.release import Description
from firmware_bridge.deploy.systemd import UnitState, log_lines, state_of
from firmware_bridge.deploy.trial import HANGS, MEDDLED, RIGHT, try_release
from firmware_bridge.errors import CxrEdgeError, DeployError
from firmware_bridge.status import ask

_TICK_S = 0.1
_BROKER_LIMIT_S = 5.0
# The agent connects within a second or two of its start, and tries again after a few.
_LOGIN_LIMIT_S = 20.0
# However long the watch: an agent that scores nothing for so long hangs.
_MOST_TRIAL_S = 120.0


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
    say(_trial(layout, description, first=first, limit_s=min(max(30.0, watch_s), _MOST_TRIAL_S)))
    if description.broker and broker:
        say(_broker(layout, description.broker))
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
        now = f"{state.active} ({state.sub}, {state.result})"
        raise _unhealthy("the service to be up", _how_it_ended(state) if state.result == "watchdog" else now)
    return state


def _how_it_ended(state: UnitState) -> str:
    if state.result == "watchdog":  # it and our own patience have the same 30 s: either may be first
        return "the agent hangs: the watchdog ended it"
    return f"it ended ({state.result or 'for no known reason'})"


def _trial(layout: Layout, description: Description, *, first: UnitState, limit_s: float) -> str:
    """What to say of a golden X-ray through the watched folder.

    Raises:
        DeployError: it did not get its score.
    """

    def still_up() -> None:
        _require_up(state_of(SERVICE), first=first)

    said = try_release(layout, description, still_up=still_up, limit_s=limit_s)
    if said == RIGHT:
        return "an X-ray through the watched folder got its score"
    if said == MEDDLED:
        # Whoever may write there must not be able to keep the device from being deployed to.
        return "somebody takes the X-rays out of the watched folder that are put there: it is not judged by them"
    if said == HANGS:
        problems = _asked(layout).get("problems")
        if problems and isinstance(problems, dict):  # it answers: a full disk keeps it from its work, say
            said = "nothing: " + ", ".join(f"{name}: {text}" for name, text in problems.items())[:300]
        raise _unhealthy(f"a golden X-ray in the watched folder to be scored within {limit_s:.0f} s", said)
    raise _unhealthy("a golden X-ray through the watched folder to get the bundle's own score", said)


def _broker(layout: Layout, address: str) -> str:
    """What to say of the broker: first whether the device reaches it, then whether it took the agent's login.

    Raises:
        DeployError: it does not.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_BROKER_LIMIT_S).close()
    except (OSError, ValueError) as error:
        raise _unhealthy(f"the broker {address} to be reachable from the device", str(error)) from error
    deadline_s, problem = time.monotonic() + _LOGIN_LIMIT_S, None
    while time.monotonic() < deadline_s:
        problem = _login_problem(layout)
        if problem == "":
            return f"broker {address} took the agent's login"
        time.sleep(_TICK_S * 2)
    if problem is None:  # an agent of before it told
        return f"broker {address} is reachable"
    raise _unhealthy(f"the broker {address} to take the agent's login and messages", problem)


def _login_problem(layout: Layout) -> str | None:
    """What the agent says of its broker: empty where all is well, None where it says nothing."""
    facts = _asked(layout).get("broker")
    if isinstance(facts, dict) and isinstance(facts.get("error"), str):
        return str(facts["error"])[:300]
    return None


def _asked(layout: Layout) -> dict[str, Any]:
    """What the agent says of itself; nothing where it does not answer."""
    with suppress(CxrEdgeError, OSError):
        said = ask(layout.agent_state)
        if isinstance(said, dict):
            return said
    return {}


def _unhealthy(expected: str, came: str) -> DeployError:
    lines = log_lines(SERVICE, lines=3)
    log = ("; its log ends: " + " | ".join(line.split(": ", 1)[-1] for line in lines)[:300]) if lines else ""
    return DeployError(
        "the new release did not prove itself",
        expected=expected,
        came=came + log,
        do="`cxr-edge logs` shows more; mend that, then deploy again",
    )


def health_now(layout: Layout, description: Description | None) -> dict[str, Any]:
    """How the service stands, without touching anything.

    Raises:
        DeployError: systemd does not answer.
    """
    state = state_of(SERVICE)
    folder = layout.root / description.watch.lstrip("/") if description else None
    return {
        "active": state.active,
        "sub": state.sub,
        "result": state.result,
        "restarts": state.restarts,
        "status": state.status,
        "enabled": state.enabled,
        "watchdog_age_s": round(state.watchdog_age_s, 1) if state.watchdog_s else None,
        "watched_folder": folder is not None and folder.is_dir(),
    }
