"""What the agent of one device is told: merged, checked as the agent will check it, before anybody connects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.deploy.release import BUNDLE_FILE, PLACE, TRUSTED_KEYS
from firmware_bridge.deploy.unit import unit_text
from firmware_bridge.errors import ConfigError, MissingExtraError
from firmware_bridge.settings import Settings, section_kind
from toolkit.deploy.inventory import Host, merge, parse_address
from toolkit.deploy.ssh_key import require_key
from toolkit.deploy.targets import require_target

_MOST_SECRET_BYTES = 1_000_000  # systemd takes no more for a unit (systemd.exec(5), LoadCredential=)
CREDENTIALS = "/run/credentials/cxr-edge.service"
MQTT_PASSWORD = "mqtt-password"  # noqa: S105  the name of a credential, not one

# Of [agent], beside `watch`: where a release has its things.
OURS = {
    "bundle": f"{PLACE}/{BUNDLE_FILE}",
    "state": "/var/lib/cxr-edge",
    "trusted_keys": f"{PLACE}/{TRUSTED_KEYS}",
}


@dataclass(frozen=True)
class Prepared:
    """A host whose settings are known to be right.

    Attributes:
        host: which.
        tables: of the agent's file.
        text: the agent's file.
        secrets: name -> text.
        broker: "host:port"; empty without one.
    """

    host: Host
    tables: Mapping[str, Any]
    text: str
    secrets: Mapping[str, str]
    broker: str


def prepare_all(hosts: Sequence[Host], config: Mapping[str, Any]) -> dict[str, Prepared]:
    """Every host's, by name: a slip in the last one is told before the first one is gone to.

    Raises:
        ConfigError: see `prepare`.
    """
    return {host.name: prepare(host, config) for host in hosts}


def prepare(host: Host, config: Mapping[str, Any]) -> Prepared:
    """The settings of one host.

    Args:
        host: with its own config and secrets.
        config: tables of the agent's file for all devices; the host's own come on top.

    Raises:
        ConfigError: a setting that the agent does not know, a secret or a key that cannot be read, a password without
            a broker, a folder or an address that cannot stand in a unit, an unknown target.
    """
    try:
        require_target(host.target)
        if host.key:
            require_key(Path(host.key))
        if host.jump:
            parse_address(host.jump)
        if host.sudo_password_file:
            _secret("sudo's password", Path(host.sudo_password_file))
        secrets = {name: _secret(name, Path(file)) for name, file in host.secrets.items()}
        unit_text(watch=host.watch, secrets=sorted(secrets), only_addresses=host.only_addresses or None)
        tables = _tables(host, merge(config, host.config), secrets=secrets)
        broker = _checked(tables, host.source or f"the settings for {host.name}")
    except ConfigError as error:
        told = error.told()
        # What is wrong may stand in one host's table, or in what all share: the first host that it hits is named.
        raise ConfigError(f"{host.source or host.name}: {told.pop('what')}", **told) from error
    return Prepared(host, tables, _toml(tables), secrets, broker)


def _secret(name: str, file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_MOST_SECRET_BYTES + 1)
        if len(text.encode()) > _MOST_SECRET_BYTES:
            raise ValueError(f"more than {_MOST_SECRET_BYTES} bytes")
        return text
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the secret {name} cannot be read",
            expected=f"a text file {file}",
            came=getattr(error, "strerror", None) or str(error),
            do="mend its path: in an inventory, files are named relative to the inventory",
        ) from error


def _tables(host: Host, config: Mapping[str, Any], *, secrets: Mapping[str, str]) -> dict[str, Any]:
    tables = merge(config, {"agent": {"watch": host.watch, **OURS}})
    if MQTT_PASSWORD not in secrets:
        return tables
    mqtt = tables.get("mqtt", {})
    if not (isinstance(mqtt, Mapping) and mqtt.get("url")):
        raise ConfigError(
            "there is a broker's password and no broker",
            expected="[mqtt] url in --config, or config.mqtt.url in the inventory",
            came="none",
            do="name the broker, or leave the password out",
        )
    return merge(tables, {"mqtt": {"password_file": f"{CREDENTIALS}/{MQTT_PASSWORD}"}})


def _checked(tables: Mapping[str, Any], where: str) -> str:
    """Read them as the agent will: a slip is told here, not by a service that does not start. The broker's address."""
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"the key {name} stands outside of every section",
                expected="sections of the agent's file, such as [mqtt]",
                came=repr(table)[:80],
                do="`cxr-edge agent --help` lists sections and keys",
            )
    # The file is for messages only: nothing is read from it, and no file of that name need be there.
    settings = Settings(tables=tables, file=Path(where))
    for name in tables:
        settings.section(section_kind(name, settings.file))
    url = tables.get("mqtt", {}).get("url", "")
    if not url:
        return ""
    from firmware_bridge.mqtt import parse_broker

    broker = parse_broker(url)
    return f"{broker.host}:{broker.port}"


def _toml(settings: Mapping[str, Any]) -> str:
    try:
        import tomli_w
    except ModuleNotFoundError as error:
        raise MissingExtraError.for_module("tomli_w", "deploy") from error

    text: str = tomli_w.dumps(dict(settings))
    return text
