"""Fleets and inventories: who is gone to, in which order, and when it stops."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError, HostError, PreflightError
from toolkit.deploy.fleet import Waves, each, wave_size, worst_exit_code
from toolkit.deploy.inventory import Host, choose_hosts, parse_address, read_inventory
from toolkit.deploy.show import errors

HOSTS = [Host(f"h{number}", f"h{number}") for number in range(6)]


def go(waves: Waves, bad: set[str]) -> tuple[list[str], list[str], int]:
    """(gone to, not begun, exit code)."""
    seen: list[str] = []

    async def work(host: Host) -> str:
        seen.append(host.name)
        await asyncio.sleep(0)
        if host.name in bad:
            raise HostError(f"{host.name} is off", expected="on", came="off", do="switch it on")
        return host.name

    ended = asyncio.run(each(HOSTS, work, waves))
    assert [one.host.name for one in ended] == [host.name for host in HOSTS]
    return seen, [one.host.name for one in ended if one.skipped], worst_exit_code(ended)


def test_all_at_once_one_failing_stops_nobody_else() -> None:
    assert go(Waves(), {"h2"}) == (["h0", "h1", "h2", "h3", "h4", "h5"], [], 10)
    assert go(Waves(), set())[2] == 0


def test_a_canary_that_fails_is_the_end() -> None:
    assert go(Waves(canary=True), {"h0"}) == (["h0"], ["h1", "h2", "h3", "h4", "h5"], 10)


def test_waves_end_once_too_many_failed() -> None:
    seen, left, _ = go(Waves(wave=2, stop_at=0.5), {"h1", "h2", "h3"})
    assert seen == ["h0", "h1"]
    assert left == ["h2", "h3", "h4", "h5"]
    seen, left, _ = go(Waves(wave=2, stop_at=0.6), {"h1"})
    assert left == []
    assert len(seen) == 6


def test_no_more_than_so_many_at_the_same_time() -> None:
    running = most = 0

    async def work(_host: Host) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    asyncio.run(each(HOSTS, work, Waves(at_once=2)))
    assert most == 2


@pytest.mark.parametrize(("text", "size"), [("", 0), ("3", 3), ("25%", 5), ("1%", 1), ("12.5%", 3), ("100%", 20)])
def test_a_wave_is_a_number_or_a_share(text: str, size: int) -> None:
    assert wave_size(text, 20) == size


def test_a_bug_in_one_ends_that_one_alone_and_is_shown_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(host: Host) -> str:
        if host.name == "h1":
            raise ZeroDivisionError("a bug")
        await asyncio.sleep(0.01)
        return host.name

    ended = asyncio.run(each(HOSTS, work, Waves()))
    assert [one.value for one in ended] == ["h0", None, "h2", "h3", "h4", "h5"]
    assert worst_exit_code(ended) == 10
    errors(ended)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "error: h1: the deployment failed here" in shown
    assert "ZeroDivisionError: a bug" in shown


INVENTORY = """
[defaults]
user = "pi"
config.mqtt.url = "mqtt://broker"
config.agent.names = false

[hosts.ward-1]
address = "10.0.0.11"
groups = ["wards"]
config.agent.device = "ward-1"
key = "keys/one"

[hosts.lab]
port = 2222
user = "root"
secrets.mqtt-password = "secret"
"""


def test_hosts_of_an_inventory_start_from_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(INVENTORY)
    ward, lab = read_inventory(file)
    assert (ward.user, ward.address, ward.groups) == ("pi", "10.0.0.11", ("wards",))
    assert ward.config == {"mqtt": {"url": "mqtt://broker"}, "agent": {"names": False, "device": "ward-1"}}
    assert ward.key == str(tmp_path / "keys/one")
    assert (lab.user, lab.address, lab.port) == ("root", "lab", 2222)
    assert lab.secrets == {"mqtt-password": str(tmp_path / "secret")}
    assert [host.name for host in choose_hosts([], file, [])] == ["ward-1", "lab"]
    assert [host.name for host in choose_hosts(["lab", "pi@other:22"], file, ["wards"])] == [
        "lab",
        "pi@other:22",
        "ward-1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no host"),
        ("[hosts.a]\nadress = 'x'", "adress"),
        ("[hosts.a]\nport = 'x'", "port as a whole number"),
        ("[hosts.a]\nport = 65536", "port from 1 to 65535"),
        ("[hosts.a]\naddress = 'pi@10.0.0.1'", "address without blanks"),
        ('[hosts.a]\nuser = "pi\\u001b[31m"', "user without blanks"),
        ('[hosts.a]\naddress = "pi\\u0000"', "address without blanks"),
        ("[hosts.a]\nsecrets.pw = 3", "secrets with texts in it"),
        ("[hosts.a]\nonly_addresses = [3]", "only_addresses with texts in it"),
        ("[hosts.'a b']", "names of letters"),
        ("[host.a]", "NAME"),
        ("x =", "TOML"),
    ],
)
def test_an_inventory_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_inventory(file)


def test_groups_and_hosts_that_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(INVENTORY)
    with pytest.raises(ConfigError, match="group 'labs'"):
        choose_hosts([], file, ["labs"])
    with pytest.raises(ConfigError, match="no host is given"):
        choose_hosts([], None, [])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pi", ("", "pi", 0)),
        ("pi@10.0.0.1:2222", ("pi", "10.0.0.1", 2222)),
        ("root@[fe80::1%eth0]:22", ("root", "fe80::1%eth0", 22)),
        ("[::1]", ("", "::1", 0)),
    ],
)
def test_addresses(text: str, found: tuple[str, str, int]) -> None:
    assert parse_address(text) == found


@pytest.mark.parametrize("text", ["", "a b", "pi@", "@host", "host:port", "host:99999", "-oProxyCommand=x", "fe80::1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        parse_address(text)


def test_the_exit_code_is_the_worst() -> None:
    async def work(host: Host) -> None:
        if host.name == "h1":
            raise ConfigError("x", expected="x", came="x", do="x")
        if host.name == "h2":
            raise PreflightError("x", expected="x", came="x", do="x")

    assert worst_exit_code(asyncio.run(each(HOSTS, work, Waves()))) == 10
