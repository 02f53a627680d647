"""The unit as text. What systemd makes of it: tests/devices/test_service.py."""

from __future__ import annotations

import configparser

import pytest

from firmware_bridge.deploy.unit import unit_text
from firmware_bridge.errors import ConfigError


def lines(**told: object) -> list[str]:
    return unit_text(**{"watch": "/srv/xrays", **told}).splitlines()  # type: ignore[arg-type]


def test_it_is_a_unit_with_three_sections() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit_text(watch="/srv/xrays"))
    assert parser.sections() == ["Unit", "Service", "Install"]
    assert parser["Service"]["User"] == "cxr-edge"
    assert "not for diagnosis" in parser["Unit"]["Description"]


def test_the_same_settings_give_the_same_text() -> None:
    assert unit_text(watch="/srv/x", secrets=["a"]) == unit_text(watch="/srv/x", secrets=["a"])


@pytest.mark.parametrize(
    ("systemd", "kind"), [(0, "notify"), (252, "notify"), (253, "notify-reload"), (257, "notify-reload")]
)
def test_a_reload_is_told_in_the_way_that_the_systemd_knows(systemd: int, kind: str) -> None:
    unit = lines(systemd=systemd)
    assert f"Type={kind}" in unit
    assert ("ExecReload=/bin/kill -HUP $MAINPID" in unit) == (kind == "notify")


def test_secrets_come_as_credentials() -> None:
    unit = lines(secrets=["mqtt-password", "client-key"])
    assert [line for line in unit if "Credential" in line] == [
        "LoadCredential=mqtt-password:/etc/cxr-edge/secrets/mqtt-password",
        "LoadCredential=client-key:/etc/cxr-edge/secrets/client-key",
    ]


def test_the_network_is_closed_only_when_asked() -> None:
    assert not [line for line in lines() if line.startswith("IPAddress")]
    closed = [line for line in lines(only_addresses=["192.0.2.7", "2001:db8::/32", "localhost"]) if "IPAddress" in line]
    assert closed == [
        "IPAddressDeny=any",
        "IPAddressAllow=192.0.2.7",
        "IPAddressAllow=2001:db8::/32",
        "IPAddressAllow=localhost",
    ]
    assert [line for line in lines(only_addresses=[]) if "IPAddress" in line] == ["IPAddressDeny=any"]


def test_a_folder_in_a_home_is_the_only_thing_seen_of_it() -> None:
    unit = lines(watch="/home/ann/x-rays")
    assert "ProtectHome=tmpfs" in unit
    assert "BindPaths=/home/ann/x-rays" in unit
    assert not [line for line in unit if line.startswith("ReadWritePaths")]


def test_an_accelerator_keeps_its_device_nodes() -> None:
    assert "PrivateDevices=yes" in lines()
    assert "PrivateDevices=yes" not in lines(accelerator=True)


def test_specifiers_and_spaces_are_taken_as_they_are() -> None:
    unit = lines(watch="/srv/50% dose")
    assert 'ReadWritePaths="/srv/50%% dose"' in unit
    assert 'RequiresMountsFor="/srv/50%% dose"' in unit


@pytest.mark.parametrize(
    "watch",
    ["srv/xrays", "/srv/x\nExecStartPre=/bin/sh", '/srv/"x', "/srv/x\\n", "", "/srv/a:b", "/srv/a\tb", "/srv/a\x85b"],
)
def test_a_folder_that_would_be_more_than_a_folder_is_refused(watch: str) -> None:
    with pytest.raises(ConfigError, match="watched folder"):
        unit_text(watch=watch)


@pytest.mark.parametrize("secret", ["", "a:b", "a/b", "a\nb", "%h", "a b"])
def test_a_secret_that_would_be_more_than_a_name_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match="secret"):
        unit_text(watch="/srv/xrays", secrets=[secret])


@pytest.mark.parametrize("address", ["", "broker.local", "any\nUser=root", "1.2.3"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        unit_text(watch="/srv/xrays", only_addresses=[address])
