"""The broker's address: what is taken, what is refused, and that a password never comes back in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.mqtt import Broker, parse_broker


def test_all_parts_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EDGE_MQTT_PASSWORD", "secret")
    assert parse_broker("mqtt://host") == Broker("host", 1883, password="secret")
    broker = parse_broker("mqtts://dr%20who@host:8884/ward/7/")
    assert (broker.host, broker.port, broker.tls, broker.username, broker.prefix) == (
        *("host", 8884, True, "dr who"),
        "ward/7",
    )
    assert "secret" not in repr(broker)
    (tmp_path / "password").write_text("other\n")
    assert parse_broker("mqtt://host", password_file=tmp_path / "password").password == "other"


@pytest.mark.parametrize(
    "address",
    [
        "mqtt://user:hush@host",
        "mqtt://user:hush/hush@host",
        "mqtt://user:hush#hush@host",
        "mqtt://user:hush?hush@host",
        "mqtt://user:hush[@host",
        "mqtt://user:hush@host\u2100",
        "mqtt://host?password=hush",
        "tcp://user:hush@host",
        "user:hush@host",
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_broker(address)
    assert "hush" not in str(caught.value)
    assert "--mqtt-password-file" in caught.value.do
    # Nor may a log with the cause, as a traceback shows it, give it away.
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "address",
    [
        *("", "host", "mqtt://", "mqtt://host:port", "mqtt://host:99999", "http://host", "mqtt://[::1"),
        *("mqtt://host/a+b", "mqtt://host/$SYS", "mqtt://host/%00", "mqtt://host/" + "x" * 1001, "mqtt://host/\ud800"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        parse_broker(address)


def test_a_missing_ca_or_password_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CA file"):
        parse_broker("mqtts://host", ca_file=tmp_path / "no.pem")
    with pytest.raises(ConfigError, match="password file"):
        parse_broker("mqtts://host", password_file=tmp_path / "none")
