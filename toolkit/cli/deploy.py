"""`cxr-edge deploy`: a bundle and the agent onto devices, proven there, or nothing changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE
from toolkit.cli.hosts import Reach, for_hosts, leave, run_async

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("deploy", epilog=NOTICE)
@click.argument("bundle", type=_FILE)
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
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
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
@click.option("--wave", default="", help="Devices in a wave, as a number or a share (25%). Default: all.")
@click.option(
    "--stop-at",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Begin no further wave once this share of devices has failed.",
)
@click.option(
    "--to-usb",
    type=click.Path(path_type=Path, file_okay=False),
    help="Instead of SSH: write a folder that a device without a network is installed from. Needs --key and --target.",
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
    dry_run: bool,
    every_byte: bool,
    allow_downgrade: bool,
    watch_s: float,
    keep: int,
    broker: bool,
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
) -> None:
    """Bring BUNDLE onto devices: leave each running it, proven there, or running what it ran before.

    A device needs SSH, Python 3.10 or later and systemd; no internet, no compiler. A second run changes nothing.
    """
    tables = _tables(config)
    if to_usb:
        _write_folder(to_usb, bundle, trusted_keys, target, python, watch_folder, tables, key, passphrase_file)
        return
    from toolkit.deploy import show
    from toolkit.deploy.deploy import Options, Report, deploy_to
    from toolkit.deploy.fleet import Ended, Waves, each, wave_size, worst_exit_code
    from toolkit.deploy.inventory import Host
    from toolkit.deploy.wanted import MQTT_PASSWORD, open_parcel

    hosts = reach.chosen(target=target, watch=watch_folder)
    if mqtt_password_file:
        hosts = [_with_secret(host, MQTT_PASSWORD, mqtt_password_file) for host in hosts]
    parcel = open_parcel(bundle, trusted_keys)
    options = Options(
        config=tables,
        allow_downgrade=allow_downgrade,
        dry_run=dry_run,
        every_byte=every_byte,
        watch_s=watch_s,
        keep=keep,
        broker=broker,
        password=reach.password(),
    )
    access = reach.access()
    try:
        waves = Waves(at_once, canary=canary, wave=wave_size(wave, len(hosts)), stop_at=stop_at)
    except ValueError as error:
        raise ConfigError("--wave cannot be read", expected="5 or 25%", came=wave, do="mend --wave") from error
    with show.reporter([host.name for host in hosts], sys.stderr, quiet=quiet or as_json) as news:

        async def one(host: Host) -> Report:
            return await deploy_to(host, parcel, access, options, news)

        ended: list[Ended[Report]] = run_async(each(hosts, one, waves))
    if as_json:
        click.echo(show.as_json(ended))
    else:
        if dry_run:
            click.echo("\n".join(line for one in ended if one.value for line in one.value.plan.lines()))
        else:
            click.echo(show.table(ended))
        click.echo(NOTICE)
    show.errors(ended)
    leave(worst_exit_code(ended))


def _tables(config: Path | None) -> dict[str, Any]:
    from toolkit.deploy.toml import read_toml

    return read_toml(config) if config else {}


def _write_folder(
    out: Path,
    bundle: Path,
    trusted_keys: Path,
    target: str,
    python: str,
    watch_folder: str,
    config: dict[str, Any],
    key: Path | None,
    passphrase_file: Path | None,
) -> None:
    from toolkit.cli.bundle import private_key
    from toolkit.deploy.inventory import DEFAULT_WATCH, Host
    from toolkit.deploy.usb import exact_target, write_folder
    from toolkit.deploy.wanted import open_parcel

    if key is None:
        raise ConfigError(
            "nobody signs the folder",
            expected="--key and the private key of one of the trusted keys",
            came="no --key",
            do="give --key; the device trusts the folder by its signature",
        )
    kind, version = exact_target(target, python)
    parcel = open_parcel(bundle, trusted_keys)
    signer = private_key(key, passphrase_file)
    host = Host(name="folder", address="", watch=watch_folder or DEFAULT_WATCH)
    write_folder(
        out,
        parcel,
        host,
        target=kind,
        python=version,
        key=signer,
        config=config,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(f"{out}: on the device, as root: sh {out.name}/install --trust {parcel.signed_by.id}")
    click.echo("A device that runs cxr-edge already needs no --trust.")
    click.echo(NOTICE)


def _with_secret(host: object, name: str, file: Path) -> object:
    from dataclasses import replace

    from toolkit.deploy.inventory import Host

    assert isinstance(host, Host)
    return replace(host, secrets={**host.secrets, name: str(file)})
