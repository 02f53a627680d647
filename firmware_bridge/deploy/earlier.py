"""Going back to a release that ran before: over SSH, or on the device itself."""

from __future__ import annotations

from collections.abc import Callable

from firmware_bridge.deploy import keys, layers, manage, proving, release, secret_files
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.orders import order, settle, settled_and_locked
from firmware_bridge.errors import DeployError

_WATCH_S, _KEEP, _LOCK_WAIT_S = 5.0, 3, 60.0


def prove_earlier(layout: Layout, to: str | None) -> tuple[str, bool]:
    """Choose the release to go back to, and prove it. The lock must be held.

    Args:
        layout: the device.
        to: the first digits of its id; None: the one before.

    Returns:
        Its id under today's keys; whether the switch to it looks at its broker.

    Raises:
        DeployError, BundleError: there is none, it is damaged, or it does not prove itself.
    """
    chosen = manage.choose_rollback(layout, to)
    earlier = release.read_release(layout, chosen)
    layers.require_intact(layout, earlier.layers.values())
    # What ran once may be signed by a key that is revoked since, and would trust it: today's keys go along.
    description = keys.with_todays_keys(layout, earlier)
    release.write_release(layout, description)
    proving.prove(layout, description)
    secret_files.stage_those_of(layout, chosen)
    # A release that was deployed without a look at its broker comes back without one.
    broker = release.read_json(layout.release(chosen) / release.ORDER).get("broker") is not False
    return description.id, broker


def changed_meanwhile(where: str) -> DeployError:
    """The error for a rollback that waited behind somebody else's change: "the one before" is another one now."""
    return DeployError(
        f"somebody else changed {where} meanwhile",
        expected="the release to run that ran when the command was given",
        came="a deployment or a rollback that was waited for",
        do="look at what runs now (`status`); where that is not it, give the command again, or name the release (--to)",
    )


def roll_back(layout: Layout, to: str | None, *, say: Callable[[str], None]) -> str:
    """Go back on the device itself, as `cxr-edge rollback` does over SSH; the id that runs then.

    Args:
        layout: the device.
        to: the first digits of a release's id; None: the one before.
        say: called with each step.

    Raises:
        RolledBack: it did not stay up.
        DeployError, BundleError, OSError: anything else; what ran before still runs.
    """
    before = _what_runs(layout)
    with settled_and_locked(layout, wait_s=_LOCK_WAIT_S):
        # Behind somebody else's rollback "the one before" would be what both wanted to leave.
        if not to and _what_runs(layout) != before:
            raise changed_meanwhile("this device")
        say("proving the release to go back to")
        id, broker = prove_earlier(layout, to)
        order(layout, id, watch_s=_WATCH_S, keep=_KEEP, reason="rollback", broker=broker)
    return settle(layout, id, say=say)


def _what_runs(layout: Layout) -> tuple[str | None, str | None]:
    """The release that runs, and the one that a switch is under way to."""
    return layout.linked_id(layout.current), layout.linked_id(layout.activating)
