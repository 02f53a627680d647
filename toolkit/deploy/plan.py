"""What has to be done on one device, from what it has and what it shall have. Pure: a dry run costs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from firmware_bridge.deploy.listing import Listing
from firmware_bridge.deploy.release import TENSORRT, Description
from firmware_bridge.errors import DowngradeError, PreflightError
from toolkit.deploy.differences import differences
from toolkit.deploy.facts import Facts
from toolkit.deploy.targets import Target, load_targets
from toolkit.deploy.wanted import Wanted

INSTALL, UPLOAD, RELEASE, ENGINES, PROVE, SWITCH = "install", "upload", "release", "engines", "prove", "switch"
_COMPILED = 1.15


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        do: one of the constants above.
        text: for people.
        layer: the kind of layer, for an upload.
        size_bytes: of what is sent, before compression.
    """

    do: str
    text: str
    layer: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done on a device.

    Attributes:
        bundle: the name of the bundle that will run.
        release: the id that will run.
        current: the id that runs; None: nothing.
        unsettled: a release whose switch an earlier deployment left unsettled; it is settled first.
        steps: in order; none: nothing changes.
        told: the settings and keys that count afterwards, and what of them changes.
    """

    host: str
    target: str
    bundle: str
    release: str
    current: str | None
    unsettled: str | None
    steps: tuple[Step, ...]
    told: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether the device is as it shall be."""
        return not self.steps and self.unsettled is None

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        yield f"{self.host}: {self.target}, {self.bundle}, release {self.release}, now {self.current or 'nothing'}"
        if self.unsettled:
            yield f"  settle the switch to {self.unsettled} that was interrupted"
        if self.nothing:
            yield "  nothing to change"
        for step in self.steps:
            yield f"  {step.text}"
        for line in self.told if self.steps else ():
            yield f"  {line}"


def make_plan(
    host: str, facts: Facts, target: Target, wanted: Wanted, stock: Mapping[str, Any], *, allow_downgrade: bool
) -> Plan:
    """The plan for one device.

    Args:
        host: its name.
        facts: of the device.
        target: its kind.
        wanted: what it shall have.
        stock: what it has (`firmware_bridge.deploy.manage.stock`).
        allow_downgrade: an older bundle of the same name may replace a newer one.

    Raises:
        DowngradeError: the bundle is older than one of the same name that ran there.
        PreflightError: there is no room for it.
    """
    description = wanted.description
    _forbid_downgrade(host, description.bundle, stock, allowed=allow_downgrade)
    steps = [*_installs(wanted, stock), *_uploads(wanted, stock)]
    _require_room(host, facts, sum(step.size_bytes for step in steps))
    if steps or description.id not in stock["releases"]:
        steps.append(Step(RELEASE, f"put together release {description.id}"))
    if steps or description.id not in stock["proven"]:
        if version := description.extra.get(TENSORRT):
            steps.append(Step(ENGINES, f"build TensorRT engines on it, minutes the first time (TensorRT {version})"))
        steps.append(Step(PROVE, "prove it with the golden X-rays, choose the fastest model file"))
    service = stock["service"]
    up = service["active"] == "active" and service["enabled"]
    if steps or stock["current"] != description.id or not up:
        steps.append(Step(SWITCH, f"switch to it, watch it for a while ({description.bundle['name']})"))
    return Plan(
        host=host,
        target=f"{target.name} ({facts.os_name or facts.machine})",
        bundle=description.bundle["name"],
        release=description.id,
        current=stock["current"],
        unsettled=stock["activating"],
        steps=tuple(steps),
        told=(*wanted.told, *_changes(stock.get("running"), description)),
    )


def _changes(running: Mapping[str, str] | None, description: Description) -> Iterator[str]:
    """How the release that runs differs beside its files, which the steps tell of; nothing where none runs."""
    if running is None:
        return
    found = differences(running, description.shown())
    yield f"changed settings: {found.get('settings', 'none')}"
    yield from (f"changed {name}: {found[name]}" for name in ("trusted keys", "service") if name in found)


def _forbid_downgrade(host: str, bundle: Mapping[str, str], stock: Mapping[str, Any], *, allowed: bool) -> None:
    newest = stock["newest"].get(bundle["name"], "")
    if newest > bundle["created"] and not allowed:
        raise DowngradeError(
            f"{host}: bundle '{bundle['name']}' is older than what ran there",
            expected=f"one made {newest} or later",
            came=f"made {bundle['created']}",
            do="deploy the newer one, or say --allow-downgrade if that is what you want",
        )


def _require_room(host: str, facts: Facts, upload_bytes: int) -> None:
    """Old and new lie side by side until the switch; compiled Python comes on top."""
    needed_bytes = int(upload_bytes * _COMPILED) + load_targets()[0].disk_mb * 1_000_000
    if upload_bytes and facts.disk_free_bytes < needed_bytes:
        raise PreflightError(
            f"{host}: its disk has too little room",
            expected=f"{needed_bytes / 1e6:.0f} MB free for /opt/cxr-edge",
            came=f"{facts.disk_free_bytes / 1e6:.0f} MB",
            do="free some space (df -h shows where; sudo apt-get clean), then deploy again; nothing was changed there",
        )


def _installs(wanted: Wanted, stock: Mapping[str, Any]) -> Iterator[Step]:
    if not stock["installed"]:
        yield Step(INSTALL, "make user, folders and units")
    changed = [name for name, hash in wanted.secret_hashes.items() if stock["secrets"].get(name) != hash]
    if changed:
        yield Step(INSTALL, f"hand over {', '.join(changed)}")


def _uploads(wanted: Wanted, stock: Mapping[str, Any]) -> Iterator[Step]:
    there = set(stock["content"])
    for kind, layer in wanted.layers.items():
        state = stock["layers"].get(layer.hash, "absent")
        if state == "intact":
            continue
        missing = missing_of(layer.listing, there)
        size_bytes = sum(layer.listing[name].size_bytes for name in missing)
        mend = " (it is damaged there)" if state == "damaged" else ""
        distinct = len({entry.sha256 for entry in layer.listing.values()})  # equal files are sent once
        text = f"send {kind}: {len(missing)} of {distinct} files, {size_bytes / 1e6:.1f} MB{mend}"
        yield Step(UPLOAD, text, layer=kind, size_bytes=size_bytes)


def missing_of(listing: Listing, there: set[str]) -> list[str]:
    """The files whose bytes are nowhere on the device, as far as it knows; of equal ones the first."""
    first = {entry.sha256: name for name, entry in reversed(listing.items()) if entry.sha256 not in there}
    return list(first.values())
