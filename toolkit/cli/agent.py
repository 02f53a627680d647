"""`cxr-edge agent`: score every X-ray that arrives in a folder; report it once."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Any

import click

from firmware_bridge.agent import AgentOptions, run_agent
from firmware_bridge.intake import IntakeOptions
from firmware_bridge.result import NOTICE


class Finite(click.FloatRange):
    """A number within a range; "nan", which is neither below nor above any, would be waited for without end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


@click.command(epilog=NOTICE)
@click.option("--watch", type=click.Path(path_type=Path), required=True, envvar="CXR_EDGE_WATCH", help="The folder.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), required=True, envvar="CXR_EDGE_BUNDLE", help="The bundle (.cxr)."
)
@click.option("--mqtt", envvar="CXR_EDGE_MQTT", help="mqtt[s]://[user@]host[:port][/prefix]. Without: no MQTT.")
@click.option(
    "--mqtt-password-file",
    type=click.Path(path_type=Path),
    envvar="CXR_EDGE_MQTT_PASSWORD_FILE",
    help="File with the password; or set CXR_EDGE_MQTT_PASSWORD.",
)
@click.option("--mqtt-ca", type=click.Path(path_type=Path), envvar="CXR_EDGE_MQTT_CA", help="CA file for mqtts.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    envvar="CXR_EDGE_STATE",
    help="Folder for journal and device key, on a local disk. Default: one for each watched folder, in your home.",
)
@click.option("--device", default="", envvar="CXR_EDGE_DEVICE", help="Name in topics. Default: from the device key.")
@click.option("--once", is_flag=True, help="Score what is there, send it, end.")
@click.option(
    "--poll",
    "poll_s",
    type=Finite(min=0.1),
    envvar="CXR_EDGE_POLL",
    help="Look every so many seconds instead of asking the kernel: for network file systems.",
)
@click.option(
    "--settle",
    "settle_s",
    type=Finite(min=0),
    default=2.0,
    show_default=True,
    help="Seconds that a file must keep still to count as finished, where nobody tells that it is.",
)
@click.option(
    "--grace",
    "grace_s",
    type=Finite(min=0),
    default=10.0,
    show_default=True,
    help="Seconds that a file which cannot be decoded must keep still before it is refused.",
)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the interpreter.")
@click.option("--names", is_flag=True, help="File names in records and log. They can hold patients' names.")
@click.option(
    "--flush",
    "flush_s",
    type=Finite(min=0),
    default=30.0,
    show_default=True,
    help="With --once: seconds to wait at the end for the broker to take what is unsent.",
)
@click.option("--quiet", is_flag=True, help="Log warnings only.")
def command(
    *,
    watch: Path,
    bundle: Path,
    mqtt: str | None,
    mqtt_password_file: Path | None,
    mqtt_ca: Path | None,
    state: Path | None,
    device: str,
    once: bool,
    poll_s: float | None,
    settle_s: float,
    grace_s: float,
    threads: int,
    names: bool,
    flush_s: float,
    quiet: bool,
) -> None:
    """Score every X-ray that arrives in a folder; report it once.

    A file counts as finished when its writer has closed it or it was moved in; where nobody tells, when it has kept
    still for --settle seconds. One that cannot be decoded is refused after --grace seconds.
    """
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(message)s")
    broker = None
    if mqtt:
        from firmware_bridge.mqtt import parse_broker

        broker = parse_broker(mqtt, password_file=mqtt_password_file, ca_file=mqtt_ca)
    intake = IntakeOptions(once=once, poll_s=poll_s, settle_s=settle_s, grace_s=grace_s)
    options = AgentOptions(
        watch, bundle, broker, state, intake, device=device, threads=threads, send_names=names, flush_s=flush_s
    )
    summary = run_agent(options)
    tally = summary.tally
    click.echo(
        f"{tally.scored} scored ({tally.by_decision['positive']} positive), {tally.refused} refused, "
        f"{tally.known} known before, {summary.unsent} unsent. {NOTICE}"
    )
