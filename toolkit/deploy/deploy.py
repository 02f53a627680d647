"""One device: facts, plan, apply. `fleet` does it to many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from firmware_bridge.errors import PreflightError
from toolkit.deploy.device import Device, at_device
from toolkit.deploy.facts import Facts
from toolkit.deploy.inventory import Host
from toolkit.deploy.layer import Layer, archive, chunks
from toolkit.deploy.plan import ENGINES, INSTALL, PROVE, RELEASE, SWITCH, UPLOAD, Plan, make_plan
from toolkit.deploy.settings import Prepared
from toolkit.deploy.ssh import Access
from toolkit.deploy.switch import switch
from toolkit.deploy.targets import Target, choose_target, preflight
from toolkit.deploy.wanted import Parcel, Wanted, wanted_for

NOTHING, RUNNING, PLANNED = "nothing changed", "running", "planned"


class Reporter(Protocol):
    """Hears how far each device is."""

    def step(self, host: str, text: str) -> None: ...  # noqa: D102
    def sent(self, host: str, done_bytes: int, total_bytes: int) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for every device of a deployment; see `cxr-edge deploy --help`."""

    allow_downgrade: bool = False
    dry_run: bool = False
    every_byte: bool = False
    watch_s: float = 5.0
    keep: int = 3
    broker: bool = True
    password: Callable[[Host], str | None] = lambda _host: None


@dataclass(frozen=True, slots=True)
class Report:
    """How a deployment to one device ended well.

    Attributes:
        state: "nothing changed", "running" or "planned".
        plan: what was to be done.
        proof: what the device measured, where it did.
        took_s: all of it.
    """

    state: str
    plan: Plan
    proof: Mapping[str, Any] | None
    took_s: float


async def deploy_to(prepared: Prepared, parcel: Parcel, access: Access, options: Options, reporter: Reporter) -> Report:
    """Leave a host running the bundle, proven, or running what it ran before.

    Raises:
        HostError: no way in, or the connection was lost.
        PreflightError: the device is not fit; nothing was changed.
        DowngradeError: it ran a newer bundle; nothing was changed.
        BundleError: the bundle does not prove itself there; what ran still runs.
        RolledBack: it did not stay up; what ran runs again.
        ResourceError: the device's disk is full or broken; what ran still runs.
        DeployError: anything else on the device.
    """
    start_s, host = time.monotonic(), prepared.host
    reporter.step(host.name, "connecting")
    async with at_device(host, access, password=lambda: options.password(host)) as device:
        target = fit_target(host, device.facts, now_s=time.time())
        wanted = await _wanted(device, target, prepared, parcel, reporter)
        reporter.step(host.name, "looking at what is there")
        plan = await _plan(device, target, wanted, options, every_byte=options.every_byte)
        if options.dry_run and not plan.nothing:
            plan = await _plan(device, target, wanted, options, every_byte=True)
        if options.dry_run or plan.nothing:
            state = NOTHING if plan.nothing else PLANNED
            return Report(state, plan, None, time.monotonic() - start_s)
        if plan.unsettled:
            reporter.step(host.name, f"settling the switch to {plan.unsettled}")
            await device.request("settle", id=plan.unsettled, watch_s=options.watch_s)
        await device.request("lock")
        # What was planned from may have been changed by somebody else until now; and what is built upon must be right
        # to the last byte: a worn card changes bytes and nothing else.
        if plan.current:
            reporter.step(host.name, "reading every byte of what is there")
        plan = await _plan(device, target, wanted, options, every_byte=True)
        for line in plan.told if plan.steps else ():
            reporter.step(host.name, line)
        proof = await _apply(device, wanted, plan, access, options, reporter)
    return Report(RUNNING if plan.steps else NOTHING, plan, proof, time.monotonic() - start_s)


async def _wanted(device: Device, target: Target, prepared: Prepared, parcel: Parcel, reporter: Reporter) -> Wanted:
    def say(line: str) -> None:
        reporter.step(device.host.name, line)

    def say_from_there(line: str) -> None:
        loop.call_soon_threadsafe(say, line)

    say(f"packages for {target.name}")
    facts, loop = device.facts, asyncio.get_running_loop()
    return await asyncio.to_thread(
        lambda: wanted_for(
            prepared,
            target,
            parcel,
            python=facts.python_minor,
            cpus=facts.cpus,
            tensorrt=facts.tensorrt,
            systemd=facts.systemd_version,
            say=say_from_there,
        )
    )


def fit_target(host: Host, facts: Facts, *, now_s: float) -> Target:
    """The device's kind.

    Raises:
        PreflightError: it is of none that is known, or not fit.
    """
    target = choose_target(host.target, facts)
    against = preflight(facts, target, wished=host.target, now_s=now_s)
    if against or target is None:
        raise PreflightError(
            f"{host.name} is not fit for cxr-edge",
            expected=target.title if target else f"a device of target '{host.target}'",
            came="\n            ".join([f"{facts.model or facts.os_name or facts.machine}:", *against]),
            do="mend what is named, then deploy again; nothing was changed there",
        )
    return target


async def _plan(device: Device, target: Target, wanted: Wanted, options: Options, *, every_byte: bool) -> Plan:
    layers = {kind: layer.hash for kind, layer in wanted.layers.items()}
    stock = await device.request("stock", layers=layers, secrets=sorted(wanted.secrets), every_byte=every_byte)
    return make_plan(device.host.name, device.facts, target, wanted, stock, allow_downgrade=options.allow_downgrade)


async def _apply(
    device: Device, wanted: Wanted, plan: Plan, access: Access, options: Options, reporter: Reporter
) -> Mapping[str, Any] | None:
    proof: Mapping[str, Any] | None = None
    done: set[str] = set()
    for step in plan.steps:
        if step.do == INSTALL and step.do in done:
            continue
        done.add(step.do)
        reporter.step(device.host.name, step.text)
        if step.do == INSTALL:
            await _install(device, wanted)
        elif step.do == UPLOAD:
            await upload(device, wanted.layers[step.layer], reporter)
        elif step.do == RELEASE:
            await _install(device, wanted)
            await device.request("release", description=wanted.description.to_json())
        elif step.do == ENGINES:
            for line in engine_lines(await device.request("engines", id=plan.release)):
                reporter.step(device.host.name, line)
        elif step.do == PROVE:
            proof = await device.request("prove", id=plan.release)
            reporter.step(device.host.name, f"proven: {chosen_line(proof)}")
            if proof.get("tensorrt"):
                reporter.step(device.host.name, f"not with TensorRT: {proof['tensorrt']}")
        elif step.do == SWITCH:
            await switch(
                device,
                plan.release,
                access,
                reason="deploy",
                watch_s=options.watch_s,
                keep=options.keep,
                broker=options.broker,
                password=lambda: options.password(device.host),
                say=lambda line: reporter.step(device.host.name, line),
            )
    return proof


async def _install(device: Device, wanted: Wanted) -> None:
    await device.request(
        "install",
        secrets=dict(wanted.secrets),
        watch=wanted.description.watch,
    )


async def upload(device: Device, layer: Layer, reporter: Reporter) -> None:
    """Send the files of a layer that the device does not have; it links the others from layers that it has.

    Raises:
        CxrEdgeError: see `Device.request`.
    """
    raw = layer.raw_listing
    missing = await device.request("prepare", payload=[raw], bytes=len(raw))
    total_bytes = sum(layer.listing[name].size_bytes for name in missing)
    if missing:
        file = await asyncio.to_thread(lambda: archive(layer, missing))
        await device.request(
            "receive",
            payload=chunks(file),
            progress=lambda done_bytes: reporter.sent(device.host.name, done_bytes, total_bytes),
            hash=layer.hash,
            bytes=file.stat().st_size,
        )
    reporter.step(device.host.name, "checking and compiling" if layer.python else "checking")
    await device.request("commit", hash=layer.hash, compile=layer.python)


def chosen_line(proof: Mapping[str, Any]) -> str:
    """The model file that a device chose."""
    chosen = proof["chosen"]
    return (
        f"{chosen['precision']}, {chosen['threads']} thread{'s' if chosen['threads'] > 1 else ''}, "
        f"{chosen['median_ms']:.1f} ms an X-ray ({chosen['runtime']}, {chosen['delegate']})"
    )


def engine_lines(built: Mapping[str, Any]) -> Iterator[str]:
    """What became of each TensorRT engine."""
    if built["reason"]:
        yield f"no TensorRT engine: {built['reason']}"
    for row in built["engines"]:
        if row["error"]:
            yield f"no TensorRT engine for {row['model']}: {row['error']}"
        else:
            yield f"TensorRT engine for {row['model']}: " + (
                f"built in {row['seconds']:.0f} s" if row["built"] else "there already"
            )
