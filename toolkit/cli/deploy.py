"""`cxr-edge deploy`: a bundle and the agent onto devices, proven there, or nothing changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from firmware_bridge.result import NOTICE
from toolkit.cli.bundle_file import BUNDLE_FILE
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async
from toolkit.cli.to_usb import Stick, refuse_with_stick, write_folder

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("deploy", epilog=NOTICE)
@click.argument("bundle", type=BUNDLE_FILE)
@click.option(
    "--trusted-keys",
    type=_FILE,
    required=True,
    envvar="CXR_EDGE_TRUSTED_KEYS",
    help="Keys that the devices shall trust; one of them must have signed BUNDLE.",
)
@for_hosts
@click.option("--target", default="", help="rpi, jetson, linux, or one kind of them. Default: auto, from the device.")
@click.option("--config", type=_FILE, help="TOML file for the agent; hosts of the inventory can add to it.")
@click.option("--watch-folder", default="", help="Watched folder on the device.  [default: /srv/cxr-edge]")
@click.option(
    "--mqtt-password-file", type=_FILE, help="Local file with the broker's password, handed over as a secret."
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing, there or here.")
@click.option("--every-byte", is_flag=True, help="Read all that is there, also where nothing seems to have changed.")
@click.option("--allow-downgrade", is_flag=True, help="Let an older bundle replace a newer one of the same name.")
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(1, 3600),
    default=5.0,
    show_default=True,
    help="Seconds that the new release must stay up before it counts.",
)
@click.option("--keep", type=click.IntRange(2, 100), default=3, show_default=True, help="Releases kept on a device.")
@click.option(
    "--broker-check/--no-broker-check",
    "broker",
    default=True,
    help="A configured broker must be reachable from the device.",
)
@click.option("--at-once", type=click.IntRange(1, 200), default=10, show_default=True, help="Devices at the same time.")
@click.option("--canary", is_flag=True, help="One device first; go on only if it is well.")
@click.option(
    "--wave", default="", help="Devices in a wave: a number, or a share of all chosen devices (25%). Default: all."
)
@click.option(
    "--stop-at",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Begin no further wave once this share of the devices done so far has failed.",
)
@click.option(
    "--to-usb",
    type=click.Path(path_type=Path, file_okay=False),
    help="Instead of SSH: write a folder that a device without a network is installed from. Needs --key and --target; "
    "--inventory and --host NAME give it one device's settings.",
)
@click.option("--key", type=_FILE, envvar="CXR_EDGE_KEY", help="With --to-usb: private key that signs the folder.")
@click.option("--passphrase-file", type=_FILE, help="With --to-usb: file with the key's passphrase.")
@click.option("--python", default="", help="With --to-usb: the device's Python, where the target leaves it open.")
@click.option("--json", "as_json", is_flag=True, help="Print the end state as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    *,
    bundle: Path,
    trusted_keys: Path,
    reach: Reach,
    target: str,
    config: Path | None,
    watch_folder: str,
    mqtt_password_file: Path | None,
    at_once: int,
    canary: bool,
    wave: str,
    stop_at: float,
    to_usb: Path | None,
    key: Path | None,
    passphrase_file: Path | None,
    python: str,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Bring BUNDLE onto devices: leave each running it, proven there, or running what it ran before.

    A device needs SSH, Python 3.10 or later and systemd; no internet, no compiler. A second run changes nothing.
    """
    tables = _tables(config)
    over: dict[str, Any] = {"target": target, "watch": watch_folder}
    if to_usb:
        given = {"--json": as_json, "--canary": canary, "--wave": wave, "--dry-run": options["dry_run"]}
        given.update({"--every-byte": options["every_byte"], "--allow-downgrade": options["allow_downgrade"]})
        refuse_with_stick([name for name, value in given.items() if value])
        stick = Stick(to_usb, key, passphrase_file, python, mqtt_password_file)
        write_folder(stick, reach, bundle=bundle, trusted_keys=trusted_keys, config=tables, over=over)
        return
    from toolkit.deploy import show
    from toolkit.deploy.deploy import Options, Report, deploy_to
    from toolkit.deploy.fleet import Ended, Waves, each, wave_size, worst_exit_code
    from toolkit.deploy.inventory import Host
    from toolkit.deploy.settings import prepare_all
    from toolkit.deploy.wanted import open_parcel

    hosts = _with_password(reach.chosen(**over), mqtt_password_file)
    prepared = prepare_all(hosts, tables)
    parcel = open_parcel(bundle, trusted_keys)
    waves = Waves(at_once, canary=canary, wave=wave_size(wave, len(hosts)), stop_at=stop_at)
    choices = Options(password=reach.password(), **options)
    access = reach.access(only_looking=choices.dry_run)
    with show.reporter([host.name for host in hosts], sys.stderr, quiet=quiet or as_json) as news:

        async def one(host: Host) -> Report:
            return await deploy_to(prepared[host.name], parcel, access, choices, news)

        ended: list[Ended[Report]] = run_async(each(hosts, one, waves))
    _show(ended, as_json=as_json, dry_run=choices.dry_run)
    leave(worst_exit_code(ended))


def _show(ended: Any, *, as_json: bool, dry_run: bool) -> None:
    from toolkit.deploy import show

    if as_json:
        click.echo(show.as_json(ended))
    else:
        if dry_run:
            click.echo("\n".join(line for one in ended if one.value for line in one.value.plan.lines()))
        else:
            click.echo(show.table(ended))
        click.echo(NOTICE)
    show.errors(ended)


def _tables(config: Path | None) -> dict[str, Any]:
    from toolkit.deploy.toml import read_toml

    return read_toml(config) if config else {}


def _with_password(hosts: Sequence[Any], file: Path | None) -> Sequence[Any]:
    """The hosts, each with the broker's password where one is given."""
    from toolkit.deploy.settings import MQTT_PASSWORD

    if file is None:
        return hosts
    return [replace(host, secrets={**host.secrets, MQTT_PASSWORD: str(file)}) for host in hosts]
