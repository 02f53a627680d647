"""Which devices, and what is special about each: from the command line, or from a TOML file.

[defaults]                     # any key of a host; every host starts from these
user = "pi"
target = "rpi"
config.mqtt.url = "mqtts://broker.clinic.example"

[hosts.ward-1]
address = "10.0.0.11"
groups = ["wards"]
config.agent.device = "ward-1" # keys of the agent's own file, see `cxr-edge agent --help`

[hosts.ward-2]
address = "10.0.0.12"
groups = ["wards"]
jump = "admin@gate.clinic.example"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError
from toolkit.deploy.toml import read_toml

DEFAULT_WATCH = "/srv/cxr-edge"
_ADDRESS = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^@:\s\[\]]+)(?::(?P<port>\d{1,5}))?")
_MOST_PORT = 65535
_KINDS = {int: "a whole number", list: "a list", dict: "a table", str: "a text"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Host:
    """One device.

    Attributes:
        name: how tables and messages call it.
        address: host name or IP address.
        user: empty: as OpenSSH's config says, else the user here.
        port: 0: as OpenSSH's config says, else 22.
        key: private key file; empty: the SSH agent and the usual files.
        jump: "[user@]host[:port]" through which it is reached.
        target: a name of `targets.toml`, its family, or "auto".
        watch: the watched folder on the device.
        groups: that `--group` may name.
        config: tables of the agent's TOML file.
        only_addresses: the service may speak with these alone ("10.0.0.5", "10.0.0.0/24"); empty: with all.
        secrets: name -> local file; each is handed to the service as a credential of that name.
        sudo_password_file: local file whose first line is sudo's password there; empty: what all hosts are given.
        source: where it stands, for messages: "clinic.toml, host ward-1"; empty: on the command line.
    """

    name: str
    address: str
    user: str = ""
    port: int = 0
    key: str = ""
    jump: str = ""
    target: str = "auto"
    watch: str = DEFAULT_WATCH
    groups: tuple[str, ...] = ()
    only_addresses: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    sudo_password_file: str = ""
    source: str = ""


def parse_address(text: str) -> tuple[str, str, int]:
    """(user, host, port) out of "[user@]host[:port]"; "" and 0 where they are not given.

    Raises:
        ConfigError: it is none.
    """
    found = _ADDRESS.fullmatch(text)
    port = int(found["port"] or 0) if found else 0
    if found is None or text.startswith("-") or not text.isprintable() or port > _MOST_PORT:
        raise ConfigError(
            f"'{text}' is no address of a host",
            expected="[user@]host[:port], with an IPv6 address in brackets",
            came=text,
            do="mend it (--host, --jump, or the inventory)",
        )
    return found["user"] or "", found["host"].strip("[]"), port


def host_of(text: str) -> Host:
    """The host that a command line names.

    Raises:
        ConfigError: see `parse_address`.
    """
    user, address, port = parse_address(text)
    return Host(name=text, address=address, user=user, port=port)


def read_inventory(path: Path) -> tuple[Host, ...]:
    """The hosts of an inventory file, in its order.

    Raises:
        ConfigError: an unknown key, a wrong type, a name twice.
    """
    content = read_toml(path)
    unknown = content.keys() - {"defaults", "hosts"}
    tables = content.get("hosts", {})
    if unknown or not isinstance(tables, dict) or not tables:
        raise _wrong(path, "[defaults] and [hosts.NAME]", ", ".join(unknown) or "no host")
    defaults = _checked(path, "defaults", content.get("defaults", {}))
    hosts = []
    for name, table in tables.items():
        if not _NAME.fullmatch(name):
            raise _wrong(path, "names of letters, digits, '.', '_' and '-'", repr(name))
        values = merge(defaults, _checked(path, f"hosts.{name}", table))
        values.setdefault("address", name)
        for key in ("groups", "only_addresses"):
            values[key] = tuple(values.get(key, ()))
        hosts.append(_relative(Host(name=name, source=f"{path}, host {name}", **values), path.parent))
    return tuple(hosts)


def _relative(host: Host, folder: Path) -> Host:
    """Local files are named relative to the inventory."""

    def local(file: str) -> str:
        return str(folder / Path(file).expanduser()) if file else ""

    secrets = {name: local(file) for name, file in host.secrets.items()}
    return replace(host, key=local(host.key), sudo_password_file=local(host.sudo_password_file), secrets=secrets)


def _checked(path: Path, where: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise _wrong(path, f"a table [{where}]", repr(table))
    kinds: dict[str, type] = {"port": int, "groups": list, "only_addresses": list, "config": dict, "secrets": dict}
    known = {one.name for one in fields(Host)} - {"name", "source"}
    for key, value in table.items():
        if key not in known:
            raise _wrong(path, f"keys of [{where}] out of {', '.join(sorted(known))}", key)
        kind = kinds.get(key, str)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _wrong(path, f"[{where}] {key} as {_KINDS[kind]}", repr(value))
        _check_content(path, f"[{where}] {key}", key, value)
    return dict(table)


def _check_content(path: Path, where: str, key: str, value: Any) -> None:
    texts = value.values() if key == "secrets" else value if isinstance(value, list) else ()
    if not all(isinstance(text, str) for text in texts):
        raise _wrong(path, f"{where} with texts in it", repr(value))
    if key in ("address", "user") and (set(value) & set(" @") or value.startswith("-") or not value.isprintable()):
        raise _wrong(path, f"{where} without blanks, '@', control characters and a '-' in front", repr(value))
    if key == "port" and not 0 <= value <= _MOST_PORT:
        raise _wrong(path, f"{where} from 1 to {_MOST_PORT}", str(value))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, table by table."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def choose_hosts(given: Sequence[str], inventory: Path | None, groups: Sequence[str]) -> tuple[Host, ...]:
    """The hosts that a command is for: those named, else those of the groups, else all of the inventory.

    Raises:
        ConfigError: none, or one that the inventory does not know.
    """
    known = read_inventory(inventory) if inventory else ()
    by_name = {host.name: host for host in known}
    chosen = [by_name.get(text) or _stranger(text, inventory, by_name) for text in given]
    for group in groups:
        members = [host for host in known if group in host.groups]
        if not members:
            groups_there = ", ".join(sorted({one for host in known for one in host.groups}))
            raise ConfigError(
                f"there is no host in group '{group}'",
                expected=f"one of {groups_there}" if groups_there else 'hosts with groups = ["..."] in an inventory',
                came=group,
                do="mend --group or the inventory" if inventory else "give --inventory",
            )
        chosen += members
    if not given and not groups:
        chosen = list(known)
    if not chosen:
        raise ConfigError(
            "no host is given",
            expected="--host USER@HOST, or --inventory FILE",
            came="neither",
            do="name at least one device",
        )
    return tuple({host.name: host for host in chosen}.values())


def _stranger(text: str, inventory: Path | None, known: Mapping[str, Host]) -> Host:
    """A host that the inventory does not name. A bare word is a slip in one of its names, sooner than an address."""
    if inventory and _NAME.fullmatch(text) and "." not in text:
        raise ConfigError(
            f"there is no host '{text}' in {inventory}",
            expected="one of " + ", ".join(known),
            came=text,
            do=f"mend --host; a machine that is not in the inventory is named USER@{text}",
        )
    return host_of(text)


def _wrong(path: Path, expected: str, came: str) -> ConfigError:
    return ConfigError(f"the inventory {path} is wrong", expected=expected, came=came, do="mend the file")
