"""A broker that answers garbage, floods, hangs or lies: the connection is given up in time, and memory stays.

The parts run here in this process, against a real socket peer, so that time and memory can be seen.
"""

from __future__ import annotations

import gc
import random
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_bridge.errors import BrokerError
from firmware_bridge.journal import Arrival, Journal, Outcome
from firmware_bridge.mqtt import Broker
from firmware_bridge.mqtt_connection import Connection
from firmware_bridge.mqtt_message import Inbox, Message
from firmware_bridge.outbox import Outbox
from tests.end_to_end.hostile_broker import CONNACK, HostileBroker, packet, publish, read_packet

INBOX = Inbox(["p/box/request/#"], expiry_s=60, max_packet_bytes=100_000)


@pytest.fixture
def wake() -> Iterator[socket.socket]:
    here, there = socket.socketpair()
    here.setblocking(False)
    yield here
    here.close()
    there.close()


def after_connect(send: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def behave(sock: socket.socket) -> None:
        read_packet(sock)
        sock.sendall(CONNACK)
        read_packet(sock)  # SUBSCRIBE
        send(sock)
        while sock.recv(65536):
            pass

    return behave


def connect(port: int, wake: socket.socket) -> Connection:
    return Connection(Broker("127.0.0.1", port), client_id="c", wake=wake, inbox=INBOX)


def lost_with(connection: Connection, *, within_s: float = 20.0) -> str:
    """Poll until the connection is given up; why it was."""
    deadline_s = time.monotonic() + within_s
    try:
        while time.monotonic() < deadline_s:
            connection.poll(0.1)
            connection.take()
    except BrokerError as error:
        return error.came
    finally:
        connection.abandon()
    raise AssertionError("the connection was kept")


def test_a_packet_that_is_too_large_is_not_even_read_to_its_end(wake: socket.socket) -> None:
    def send(sock: socket.socket) -> None:
        sock.sendall(b"\x30\xff\xff\xff\x7f")  # 256 MiB are to follow
        for _ in range(4096):
            sock.sendall(b"x" * 65536)

    with HostileBroker(after_connect(send)) as broker:
        connection = connect(broker.port, wake)
        tracemalloc.start()
        try:
            assert "100000 were agreed" in lost_with(connection)
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        finally:
            tracemalloc.stop()


def test_qos_2_which_was_not_agreed(wake: socket.socket) -> None:
    with HostileBroker(after_connect(lambda sock: sock.sendall(publish("p/box/request", b"x", qos=2)))) as broker:
        assert "QoS 2" in lost_with(connect(broker.port, wake))


def test_more_messages_than_were_agreed(wake: socket.socket) -> None:
    """Nobody takes them out: the connection is given up before they fill the memory."""
    flood = b"".join(publish("p/box/request", b"x" * 1000, mid=mid) for mid in range(1, 1000))
    with HostileBroker(after_connect(lambda sock: sock.sendall(flood))) as broker:
        connection = connect(broker.port, wake)
        came = 0
        for _ in range(3000):
            connection._turn(0.01)
            came = len(connection._came)
        assert came == 64
        assert "than were agreed" in lost_with(connection)


def test_messages_to_one_who_subscribed_to_nothing(wake: socket.socket) -> None:
    def behave(sock: socket.socket) -> None:
        read_packet(sock)
        sock.sendall(CONNACK + publish("p/x", b"x"))
        while sock.recv(65536):
            pass

    with HostileBroker(behave) as broker:
        connection = Connection(Broker("127.0.0.1", broker.port), client_id="c", wake=wake)
        assert "nothing was subscribed to" in lost_with(connection)


def test_a_message_that_cannot_be_read_is_handed_on_to_be_acknowledged(wake: socket.socket) -> None:
    """U+FEFF as content type: allowed by MQTT 5.0, 1.5.4, refused by paho."""
    acknowledged = threading.Event()
    poison = publish("p/box/request", b"x", mid=7, properties=b"\x03\x00\x03\xef\xbb\xbf")
    bad_topic = packet(0x32, b"\x00\x01\xff" + b"\x00\x08" + b"\x00" + b"x")

    def send(sock: socket.socket) -> None:
        sock.sendall(poison + bad_topic)
        if {read_packet(sock)[:2], read_packet(sock)[:2]} == {b"\x00\x07", b"\x00\x08"}:
            acknowledged.set()

    with HostileBroker(after_connect(send)) as broker:
        connection = connect(broker.port, wake)
        seen = 0
        deadline_s = time.monotonic() + 20
        while not acknowledged.is_set() and time.monotonic() < deadline_s:
            connection.poll(0.1)
            for message in connection.take():
                assert message.unreadable
                seen += 1
                connection.acknowledge(message)
        assert acknowledged.is_set()
        assert seen == 2
        connection.abandon()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x20",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x03\x00\x85\x00",
        b"\xff" * 100,
        b"SSH-2.0-x\r\n",
        b"\x00" * 50,
    ],
)
def test_what_is_no_broker_is_an_error_and_not_a_hang(wake: socket.socket, answer: bytes) -> None:
    def behave(sock: socket.socket) -> None:
        sock.sendall(answer)

    with HostileBroker(behave) as broker, pytest.raises(BrokerError):
        connect(broker.port, wake)


def test_a_port_that_accepts_and_says_nothing(wake: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_bridge.mqtt_connection._CONNACK_TIMEOUT_S", 0.3)
    monkeypatch.setattr("firmware_bridge.mqtt_connection._SILENT_S", 0.3)
    silence = threading.Event()
    with HostileBroker(lambda _sock: silence.wait(5) and None) as broker:  # type: ignore[func-returns-value]
        with pytest.raises(BrokerError, match="MQTT broker") as caught:
            connect(broker.port, wake)
        assert caught.value.came == "none in time"
        silence.set()


def test_a_slow_broker_is_not_taken_for_one_without_mqtt_5(wake: socket.socket) -> None:
    """Without MQTT 5 the answers would lose their correlation data."""

    def behave(sock: socket.socket) -> None:
        read_packet(sock)
        time.sleep(3)
        sock.sendall(CONNACK)
        while sock.recv(4096):
            pass

    with HostileBroker(behave) as broker:
        connection = Connection(Broker("127.0.0.1", broker.port), client_id="c", wake=wake, inbox=INBOX, speaks_5=True)
        assert (connection.protocol, broker.connections) == ("5", 1)
        connection.abandon()


def test_limits_that_the_broker_names_are_kept(wake: socket.socket) -> None:
    limits = (
        b"\x21\x00\x03" + b"\x27\x00\x00\x01\x00" + b"\x25\x00"
    )  # MQTT 5.0, 3.2.2.3: 3 messages, 256 bytes, no retain
    connack = packet(0x20, b"\x00\x00" + bytes([len(limits)]) + limits)
    retained: list[bool] = []

    def behave(sock: socket.socket) -> None:
        read_packet(sock)
        sock.sendall(connack)
        retained.append(bool(sock.recv(1)[0] & 1))
        while sock.recv(4096):
            pass

    with HostileBroker(behave) as broker:
        connection = Connection(Broker("127.0.0.1", broker.port), client_id="c", wake=wake)
        assert (connection.most_in_flight, connection.max_packet_bytes) == (3, 256)
        assert connection.fits(Message("a/b", b"x" * 200))
        assert not connection.fits(Message("a/b", b"x" * 256))
        connection.publish(Message("a/b", b"x", retain=True))
        connection.poll(0.5)
        deadline_s = time.monotonic() + 10
        while not retained and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert retained == [False]
        connection.abandon()


def test_a_broker_that_never_acknowledges_gets_each_result_once_a_connection(tmp_path: Path) -> None:
    """It hangs: nothing is marked as sent, nothing is sent twice, and the outbox stops when told to."""
    journal = Journal(tmp_path)
    for number in range(40):
        (row,) = journal.take([Arrival(tmp_path / str(number), f"{number:064}", 1, 1)])
        journal.settle([Outcome(row.seq, row.path, f"id{number}", f"{{{number}}}")])
    came: list[bytes] = []

    def behave(sock: socket.socket) -> None:
        read_packet(sock)
        sock.sendall(CONNACK)
        while True:
            came.append(read_packet(sock))

    with HostileBroker(behave) as broker:
        outbox = Outbox(Broker("127.0.0.1", broker.port), journal, device="box", status=dict)
        thread = threading.Thread(target=outbox.run)
        thread.start()
        deadline_s = time.monotonic() + 20
        while len(came) < 16 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(0.5)
        outbox.stop()
        thread.join(10)
        assert not thread.is_alive()
    results = [body for body in came if b"/result" in body]
    assert len(results) == len(set(results)) == 15, "16 in flight, the status among them"
    assert journal.counts().unsent == 40
    journal.close()


def test_who_is_thrown_out_by_another_of_its_name_is_not_in_a_hurry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two devices of one name would throw each other out without end. (Mosquitto 2.0.11 just hangs up on the first.)"""
    monkeypatch.setattr("firmware_bridge.outbox._TAKEN_OVER_S", 3600.0)
    problems: list[str | None] = []

    def behave(sock: socket.socket) -> None:
        read_packet(sock)
        sock.sendall(CONNACK)
        read_packet(sock)
        sock.sendall(packet(0xE0, b"\x8e\x00"))

    journal = Journal(tmp_path)
    with HostileBroker(behave) as broker:
        outbox = Outbox(Broker("127.0.0.1", broker.port), journal, device="box", status=dict, problem=problems.append)
        thread = threading.Thread(target=outbox.run)
        thread.start()
        deadline_s = time.monotonic() + 20
        while not any(problems) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(2)  # the usual wait would be half a second
        outbox.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert "taken over" in str(problems[-1])
        assert broker.connections == 1
    journal.close()


def mutated(rng: random.Random) -> bytes:
    """A broker's packets, damaged: bits, lengths, ends and order."""
    good = [
        publish("p/box/request", b"x" * rng.randrange(300), mid=rng.randrange(1, 65536), qos=rng.randrange(4)),
        publish("p/box/request/a", b"", properties=b"\x08\x00\x01a\x09\x00\x01b\x03\x00\x01c"),
        packet(0x40, b"\x00\x01\x00"),  # PUBACK
        packet(0x90, b"\x00\x01\x00\x01"),  # SUBACK
        packet(0xD0, b""),  # PINGRESP
        packet(0xE0, b"\x8e\x00"),  # DISCONNECT, session taken over
        CONNACK,
        packet(0xF0, b"\x00\x00"),  # AUTH
        packet(0x62, b"\x00\x01"),  # PUBREL
    ]
    data = bytearray(b"".join(rng.choices(good, k=rng.randrange(1, 4))))
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data) + 1)
        how = rng.randrange(4)
        if how == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif how == 1 and place < len(data):
            data[place] = rng.choice((0, 1, 127, 128, 255))
        elif how == 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 8))
        else:
            del data[place : place + rng.randrange(1, 20)]
    return bytes(data) or b"\x00"


def feed(port: int, wake: socket.socket) -> float:
    """One connection to its end; the seconds of the longest turn."""
    connection = connect(port, wake)
    longest_s = 0.0
    try:
        for _ in range(40):
            before_s = time.monotonic()
            connection.poll(0.1)
            for message in connection.take():
                connection.acknowledge(message)
            longest_s = max(longest_s, time.monotonic() - before_s)
    except BrokerError:
        pass
    finally:
        connection.abandon()
    return longest_s


def fuzz(count: int, wake: socket.socket) -> tuple[float, float, float]:
    """`count` damaged streams; the longest turn (s), and the memory held (MiB) after a fifth of them and at the end."""
    rng = random.Random(20)

    def behave(sock: socket.socket) -> None:
        read_packet(sock)
        sock.sendall(CONNACK)
        sock.sendall(mutated(rng))
        # Then it hangs up: a connection that waits for the rest of a packet learns of it.

    longest_s, early = 0.0, 0.0
    tracemalloc.start()
    try:
        with HostileBroker(behave) as broker:
            for number in range(count):
                longest_s = max(longest_s, feed(broker.port, wake))
                if number == count // 5:
                    gc.collect()
                    early = tracemalloc.get_traced_memory()[0] / 2**20
                broker._threads = [thread for thread in broker._threads if thread.is_alive()]
        gc.collect()
        return longest_s, early, tracemalloc.get_traced_memory()[0] / 2**20
    finally:
        tracemalloc.stop()


def test_damaged_packets(wake: socket.socket) -> None:
    longest_s, early_mib, late_mib = fuzz(600, wake)
    assert longest_s < 2
    assert late_mib < early_mib + 1


@pytest.mark.soak
def test_ten_thousand_damaged_packets(wake: socket.socket) -> None:
    longest_s, early_mib, late_mib = fuzz(10_000, wake)
    sys.stdout.write(
        f"longest turn {longest_s * 1e3:.0f} ms; {early_mib:.2f} MiB after 2,000, {late_mib:.2f} at the end\n"
    )
    assert longest_s < 2
    assert late_mib < early_mib + 1
