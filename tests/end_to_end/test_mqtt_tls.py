"""TLS, client certificates, user and password against a real broker; and what is wrong with them is said."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.mqtt import parse_broker, warn_of_open_secrets
from tests.end_to_end.certificates import Authority

if TYPE_CHECKING:
    from conftest import Agent, Mosquitto, Xrays

mosquitto_marked = pytest.mark.mosquitto


def serve(mosquitto: Mosquitto, authority: Authority, *, host: str = "127.0.0.1", expired: bool = False) -> str:
    """Have the broker speak TLS; its address."""
    pair = authority.issue("broker", host=host, expired=expired)
    mosquitto.more += f"certfile {pair.cert}\nkeyfile {pair.key}\n"
    return f"mqtts://127.0.0.1:{mosquitto.port}"


def sent(agent: Agent, xrays: Xrays, *options: str) -> tuple[int, str]:
    """One X-ray, one run: its exit code, and the log."""
    xrays.put(agent.watch / f"{len(list(agent.watch.iterdir()))}.jpg", old=True)
    code = agent.run("--flush", "2", *options)
    return code, agent.log.read_text()


@mosquitto_marked
def test_a_broker_whose_certificate_is_right(agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "clinic")
    url = serve(mosquitto, authority)
    mosquitto.start()
    code, log = sent(agent, xrays, "--mqtt", url, "--mqtt-ca", str(authority.cert))
    assert code == 0, log


@mosquitto_marked
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("authority", "certificate verify failed"),
        ("expired", "certificate has expired"),
        ("host", "IP address mismatch"),
        ("system", "certificate verify failed"),
        ("plain", "the connection ended|refuses|Connection reset"),
    ],
)
def test_a_broker_whose_certificate_is_wrong(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path, wrong: str, said: str
) -> None:
    authority = Authority(tmp_path, "clinic")
    trusted = Authority(tmp_path, "other") if wrong == "authority" else authority
    url = serve(
        mosquitto, authority, host="broker.example" if wrong == "host" else "127.0.0.1", expired=wrong == "expired"
    )
    mosquitto.start()
    options = [] if wrong in ("system", "plain") else ["--mqtt-ca", str(trusted.cert)]
    address = url.replace("mqtts", "mqtt") if wrong == "plain" else url
    code, log = sent(agent, xrays, "--mqtt", address, *options)
    assert code == 9, log
    assert any(one in log for one in said.split("|")), log
    assert agent.journal("SELECT count(*) FROM result WHERE sent_s IS NULL") == [(1,)], "it waits in the journal"


@mosquitto_marked
def test_a_broker_that_asks_for_a_certificate(agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "clinic")
    url = serve(mosquitto, authority)
    mosquitto.more += f"cafile {authority.cert}\nrequire_certificate true\nuse_identity_as_username true\n"
    mosquitto.acl.write_text("user box\ntopic readwrite cxr-edge/box/#\n")
    mosquitto.anonymous = False
    mosquitto.start()
    mine = authority.issue("box")
    foreign = Authority(tmp_path, "other").issue("box2")
    with_ca = ("--mqtt", url, "--mqtt-ca", str(authority.cert), "--device", "box")
    assert sent(agent, xrays, *with_ca)[0] == 9
    refused = sent(agent, xrays, *with_ca, "--mqtt-cert", str(foreign.cert), "--mqtt-key", str(foreign.key))
    assert refused[0] == 9
    code, log = sent(agent, xrays, *with_ca, "--mqtt-cert", str(mine.cert), "--mqtt-key", str(mine.key))
    assert code == 0, log
    assert agent.journal("SELECT count(*) FROM result WHERE sent_s IS NULL") == [(0,)], "all three by now"


@mosquitto_marked
def test_user_and_password(agent: Agent, xrays: Xrays, mosquitto: Mosquitto, tmp_path: Path) -> None:
    passwords = mosquitto.folder / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", passwords, "box", "right"], check=True, capture_output=True)
    mosquitto.more = f"password_file {passwords}\n"
    mosquitto.acl.write_text("user box\ntopic readwrite cxr-edge/#\n")
    mosquitto.anonymous = False
    mosquitto.start()
    secret = tmp_path / "password"
    url = f"mqtt://box@127.0.0.1:{mosquitto.port}"
    secret.write_text("wrong\n")
    code, log = sent(agent, xrays, "--mqtt", url, "--mqtt-password-file", str(secret))
    assert code == 9
    assert "Not authorized" in log or "Bad user name or password" in log, log
    secret.write_text("right\n")
    assert sent(agent, xrays, "--mqtt", url, "--mqtt-password-file", str(secret))[0] == 0
    assert "right" not in agent.log.read_text()


def test_files_that_do_not_fit_are_told_before_anything_starts(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "clinic")
    mine, other = authority.issue("mine"), authority.issue("other")
    locked = authority.issue("locked", password=b"hush")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    url = "mqtts://host"
    assert parse_broker(url, ca_file=authority.cert, cert_file=mine.cert, key_file=mine.key).tls
    for files, said in [
        ({"cert_file": mine.cert, "key_file": other.key}, "TLS files"),
        ({"cert_file": locked.cert, "key_file": locked.key}, "TLS files"),
        ({"cert_file": mine.cert}, "TLS files"),
        ({"cert_file": junk, "key_file": mine.key}, "TLS files"),
        ({"ca_file": junk}, "TLS files"),
        ({"key_file": mine.key}, "without its certificate"),
        ({"cert_file": tmp_path / "none", "key_file": mine.key}, "certificate file"),
        ({"cert_file": mine.cert, "key_file": tmp_path / "none"}, "key file"),
    ]:
        with pytest.raises(ConfigError, match=said):
            parse_broker(url, **files)
    with pytest.raises(ConfigError, match="without TLS"):
        parse_broker("mqtt://host", ca_file=authority.cert)


def test_a_secret_that_everybody_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_key, safe = tmp_path / "open.key", tmp_path / "safe.key"
    for file, mode in [(open_key, 0o644), (safe, 0o640)]:
        file.touch()
        file.chmod(mode)
    assert warn_of_open_secrets(open_key, safe, None, tmp_path / "none") == [open_key]
    assert "chmod o=" in caplog.text
