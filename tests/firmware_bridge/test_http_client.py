"""HTTP towards a server that does what no good one does."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from firmware_bridge.errors import ConfigError
from firmware_bridge.http_client import HttpClient, ServerError, parse_address, read_secret

WAIT_S = 60.0


@pytest.mark.parametrize(
    "line", [b"MUSTERMANN^MAX\r\n\r\n", b"HTTP/7.3 MUSTERMANN\r\n\r\n", b"HTTP/1.1 MUSTERMANN\r\n\r\n"]
)
def test_what_comes_instead_of_http_is_not_quoted(line: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(line)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = parse_address(f"http://127.0.0.1:{server.getsockname()[1]}", key="url")
        with pytest.raises(ServerError) as told:
            HttpClient(address, headers=dict, timeout_s=10).ask("GET", "/")
        thread.join(WAIT_S)
    assert told.value.came == "no HTTP"


def test_a_secret_is_read_from_a_plain_file_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "none"):
        with pytest.raises(ConfigError, match="cannot be used"):
            read_secret(odd, key="password_file")
    (tmp_path / "secret").write_text("hidden\r\n")
    (tmp_path / "link").symlink_to("secret")  # as Kubernetes has them
    assert read_secret(tmp_path / "link", key="password_file") == "hidden"


@pytest.mark.parametrize(
    "url",
    [
        "htps://user:hidden@host",
        "http://user:hid den@host",
        "http://user:hidden",
        "http://user:hidden@",
        "user:hidden@host",
        "http://user:hidden@host",
        "http://user:hidden@host/\n",
        "http://[user:hidden@host",
        "http://user:hid/den@host",
        "http://host?token=hidden",
        "http://host#hidden",
        "http://@host",
        "http://host:99999",
        "http://host/päth",
        f"http://{'a' * 64}",
        "http://a..b",
        "",
    ],
)
def test_an_address_that_is_none_is_refused_and_what_may_be_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address") as told:
        parse_address(url, key="url")
    assert "hid" not in str(told.value)
    assert told.value.__cause__ is None


@pytest.mark.parametrize(
    "begin",
    [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"],
    ids=["headers", "body"],
)
def test_an_answer_that_comes_byte_by_byte_is_not_waited_for_without_end(begin: bytes) -> None:
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(begin)
            while not over.wait(0.05):  # sooner than any read times out
                client.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        address = parse_address(f"http://127.0.0.1:{server.getsockname()[1]}", key="url")
        client = HttpClient(address, headers=dict, timeout_s=0.2)
        told: list[str] = []

        def ask() -> None:
            with pytest.raises(ServerError) as caught:
                client.ask("GET", "/")
            told.append(caught.value.came)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(WAIT_S)
        over.set()
        thread.join(WAIT_S)
    assert told == ["the answer was not whole after 2 s"]
