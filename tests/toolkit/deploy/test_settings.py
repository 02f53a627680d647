"""Slips on the workstation are told before anybody connects, with the file and the host that they stand in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.trust import TrustedKey
from toolkit.deploy.inventory import Host, choose_hosts
from toolkit.deploy.settings import prepare, prepare_all
from toolkit.deploy.wanted import keys_told, settings_told

INVENTORY = """
[defaults]
config.mqtt.url = "mqtt://broker"

[hosts.good]
address = "10.0.0.1"

[hosts.ward-3]
address = "10.0.0.3"
{}
"""


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('config.mqtt.ur = "mqtt://b"', ["the key ur of [mqtt]", "did you mean url?"]),
        ("config.agent.threads = 'two'", ["[agent] threads", "a whole number"]),
        ("config.mqqt.url = 'x'", ["the section [mqqt]"]),
        ("config.mqtt = 3", ["outside of every section"]),
        ('config.mqtt.url = "broker"', ["the MQTT address is wrong"]),
        (f'config.mqtt.url = "mqtt://{"ü" * 70}"', ["the MQTT address is wrong", "no name server"]),
        ('secrets.mqtt-password = "none.txt"', ["the secret mqtt-password cannot be read", "none.txt", "relative to"]),
        ('secrets.mqtt-password = "/dev/zero"', ["the secret mqtt-password cannot be read", "more than 1000000"]),
        ('target = "toaster"', ["there is no target 'toaster'", "rpi-os-12"]),
        ('key = "none"', ["the SSH key", "No such file"]),
        ('sudo_password_file = "none.txt"', ["sudo's password", "none.txt"]),
        ('jump = "the gate"', ["'the gate' is no address", "the inventory"]),
        ('watch = "/srv/a:b"', ["the watched folder"]),
        ('watch = "/srv/a\\tb"', ["the watched folder"]),
        ('watch = "/srv/../etc"', ["the watched folder"]),
        ('watch = "/"', ["the watched folder", "such as /srv/cxr-edge"]),
        ('watch = "//etc/x"', ["the watched folder", "such as /srv/cxr-edge"]),
        ('watch = "/var/lib"', ["the watched folder", "such as /srv/cxr-edge"]),
        ('only_addresses = ["broker"]', ["the address 'broker'"]),
    ],
)
def test_a_slip_in_one_host_is_told_before_the_first_is_gone_to(tmp_path: Path, lines: str, words: list[str]) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(INVENTORY.format(lines))
    with pytest.raises(ConfigError) as caught:
        prepare_all(choose_hosts([], file, []), {})
    told = str(caught.value)
    assert told.startswith(f"{file}, host ward-3: ")
    assert [word for word in words if word not in told] == []
    # No file of our own making is named: the reader could not find it.
    assert not re.search(r"/tmp/tmp\w+\.toml", told)


def test_what_is_right_is_as_the_agent_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(INVENTORY.format('secrets.mqtt-password = "pw"\nconfig.agent.threads = 2'))
    (tmp_path / "pw").write_text("hunter2")
    found = prepare_all(choose_hosts([], file, []), {"log": {"level": "info"}})
    assert found["good"].secrets == {}
    ward = found["ward-3"]
    assert ward.broker == "broker:1883"
    assert ward.secrets == {"mqtt-password": "hunter2"}
    assert 'password_file = "/run/credentials/cxr-edge.service/mqtt-password"' in ward.text
    assert "hunter2" not in ward.text
    assert "threads = 2" in ward.text


def test_a_brokers_password_without_a_broker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2")
    host = Host("pi", "pi", secrets={"mqtt-password": str(tmp_path / "pw")})
    with pytest.raises(ConfigError, match="a broker's password and no broker"):
        prepare(host, {})
    assert prepare(host, {"mqtt": {"url": "mqtt://broker"}}).broker == "broker:1883"


@pytest.mark.parametrize(
    ("given", "message"), [(["ward-4"], "there is no host 'ward-4' in"), (["ward"], "one of good, ward-3")]
)
def test_a_misspelt_name_is_not_taken_for_an_address(tmp_path: Path, given: list[str], message: str) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(INVENTORY.format(""))
    with pytest.raises(ConfigError, match=message):
        choose_hosts(given, file, [])
    assert choose_hosts(["pi@ward", "10.0.0.9"], file, [])[0].address == "ward"
    assert choose_hosts(given, None, [])[0].address == given[0]  # nothing to be a slip in


def test_a_group_where_no_host_has_one(tmp_path: Path) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(INVENTORY.format(""))
    with pytest.raises(ConfigError, match="in group 'wards'") as caught:
        choose_hosts([], file, ["wards"])
    assert "no group" not in caught.value.expected


def test_files_of_an_inventory_are_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "clinic.toml"
    file.write_text(INVENTORY.format('sudo_password_file = "sudo.txt"'))
    hosts: Any = choose_hosts([], file, [])
    assert [host.sudo_password_file for host in hosts] == ["", str(tmp_path / "sudo.txt")]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "settings: the agent's defaults, as neither --config nor an inventory says more; no broker"),
        ({"mqtt": {"url": "mqtt://b:99"}, "log": {"level": "info"}}, "settings: [log] [mqtt]; broker b:99"),
        ({"agent": {"threads": 2}}, "settings: [agent]; no broker"),
    ],
)
def test_a_plan_says_which_settings_count_from_then_on(config: dict[str, Any], told: str) -> None:
    assert settings_told(prepare(Host("pi", "pi"), config)) == told


def test_a_plan_says_which_keys_count_from_then_on() -> None:
    keys = [TrustedKey("new", b"n" * 32), TrustedKey("old", b"o" * 32, revoked=True)]
    assert keys_told(keys) == f"trusted keys: new ({keys[0].id[:8]}), old (revoked)"
