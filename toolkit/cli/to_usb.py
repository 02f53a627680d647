"""`cxr-edge deploy --to-usb`: a folder instead of a connection."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.result import NOTICE
from toolkit.cli.hosts import Reach

SECRETS = "/etc/cxr-edge/secrets"


@dataclass(frozen=True)
class Stick:
    """What `--to-usb` and the options that belong to it said."""

    out: Path
    key: Path | None
    passphrase_file: Path | None
    python: str
    mqtt_password_file: Path | None


def refuse_with_stick(options: Sequence[str]) -> None:
    """Whether only options were given that mean something for a folder.

    Raises:
        ConfigError: others too.
    """
    if options:
        raise ConfigError(
            f"{options[0]} does not go with --to-usb",
            expected="options of the folder, which is written at once; the rest is decided on the device",
            came=", ".join(options),
            do="leave it out; on the device, `sh install` takes --check and --allow-downgrade",
        )


def write_folder(
    stick: Stick, reach: Reach, *, bundle: Path, trusted_keys: Path, config: dict[str, Any], over: dict[str, Any]
) -> None:
    """Write the folder, and say what is to be done on the device.

    Args:
        stick: the options.
        reach: at most one host of an inventory, whose settings the device gets.
        bundle: what the device shall run.
        trusted_keys: file of keys that it shall trust.
        config: tables of the agent's file.
        over: `target` and `watch`, where they were given.

    Raises:
        ConfigError: an option that is missing, or settings that are wrong.
        CxrEdgeError: see `toolkit.deploy.usb.write_folder`.
    """
    from toolkit.cli.bundle import private_key
    from toolkit.deploy import usb
    from toolkit.deploy.settings import MQTT_PASSWORD, prepare
    from toolkit.deploy.wanted import open_parcel

    if stick.key is None:
        raise ConfigError(
            "nobody signs the folder",
            expected="--key and the private key of one of the trusted keys",
            came="no --key",
            do="give --key; the device trusts the folder by its signature",
        )
    host = _host(reach, over)
    if stick.mqtt_password_file:
        host = replace(host, secrets={**host.secrets, MQTT_PASSWORD: str(stick.mqtt_password_file)})
    kind, version = usb.exact_target(host.target, stick.python)
    prepared = prepare(replace(host, target=kind.name), config)
    parcel = open_parcel(bundle, trusted_keys)
    signer = private_key(stick.key, stick.passphrase_file)
    usb.require_signer(signer, parcel)

    def say(line: str) -> None:
        click.echo(line, err=True)

    by = usb.write_folder(stick.out, parcel, prepared, target=kind, python=version, key=signer, say=say)
    click.echo(f"{stick.out}: signed by {by.name}; settings of {host.source or 'the command line'}")
    for name in sorted(prepared.secrets):
        click.echo(
            f"First put {name} on the device: sudo install -Dm 600 FILE {SECRETS}/{name} (no secret is on the stick)"
        )
    click.echo(f"On the device: sudo sh {shlex.quote(stick.out.name)}/install --trust {by.id}")
    click.echo("A device that runs cxr-edge already needs no --trust.")
    click.echo(NOTICE)


def _host(reach: Reach, over: dict[str, Any]) -> Any:
    """The one device whose settings go onto the stick; one without a name where no inventory is given."""
    from toolkit.deploy.inventory import Host

    if not reach.given:
        return replace(Host(name="the stick", address=""), **{name: value for name, value in over.items() if value})
    hosts = reach.chosen(**over)
    if len(hosts) != 1 or not hosts[0].source:
        raise ConfigError(
            "a folder has the settings of one device",
            expected="--inventory FILE --host NAME, or neither",
            came=", ".join(host.name for host in hosts),
            do="name the one host of the inventory that the folder is for",
        )
    return hosts[0]
