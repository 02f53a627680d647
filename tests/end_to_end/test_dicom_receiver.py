"""X-rays sent by DCMTK's tools to a real agent."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from firmware_bridge.decode import decode
from firmware_bridge.status import ask as ask_agent
from tests.end_to_end.conftest import Agent, free_port, until
from tests.end_to_end.dcmtk import identified, program, run, told

pytest.importorskip("pynetdicom", reason="needs the extra 'dicom-net'")


def ask(state: Path) -> dict[str, Any]:
    return until(lambda: ask_agent(state), what="the agent answers")


class Clinic:
    """An agent that receives, and what a modality sends to it."""

    def __init__(self, agent: Agent, samples: Path, folder: Path) -> None:
        self.agent = agent
        self.samples = sorted((samples / "dicom").glob("*.dcm"))
        self.folder = folder
        self.port = free_port()

    def start(self, *lines: str, options: tuple[str, ...] = ()) -> None:
        config = self.folder / "agent.toml"
        config.write_text("\n".join(["[dicom]", f"port = {self.port}", *lines]) + "\n")
        self.agent.start("--config", str(config), *options)
        until(lambda: f":{self.port}" in self.agent.log.read_text(), what="the receiver listens")

    def echo(self, *options: str) -> subprocess.CompletedProcess[str]:
        return run("echoscu", *options, "127.0.0.1", str(self.port))

    def send(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run("storescu", "-v", "127.0.0.1", str(self.port), *arguments)

    @property
    def received(self) -> list[Path]:
        # What the agent works on lies in its own folder of claims meanwhile. A look while a file moves there sees it
        # twice or not at all; two looks alike do not.
        before, now = None, sorted(self.agent.watch.rglob("*.dcm"))
        while before != now:
            before, now = now, sorted(self.agent.watch.rglob("*.dcm"))
        return now

    def results(self) -> list[tuple[str]]:
        return self.agent.journal("SELECT record FROM result")


@pytest.fixture
def clinic(agent: Agent, samples: Path, tmp_path: Path) -> Iterator[Clinic]:
    program("storescu")
    folder = tmp_path / "clinic"
    folder.mkdir()
    return Clinic(agent, samples, folder)


def test_it_answers_an_echo(clinic: Clinic) -> None:
    clinic.start()
    assert clinic.echo().returncode == 0


def test_an_x_ray_that_is_sent_is_scored_and_its_patient_stays_here(clinic: Clinic) -> None:
    clinic.start("callers = ['MODALITY']")
    path = clinic.folder / "Sichelschmidt.dcm"
    identified(clinic.samples[0], path)
    sent = clinic.send("-aet", "MODALITY", "-aec", "CXR-EDGE", path)
    assert sent.returncode == 0, sent.stderr
    assert len(clinic.received) == 1  # at once: Success means that it is on the disk
    until(clinic.results)
    ((record,),) = clinic.results()
    assert '"probability"' in record
    assert told(record.encode()) == []
    assert clinic.agent.terminate() == 0
    assert told(clinic.agent.log.read_bytes()) == []
    assert told(os.fsencode(clinic.received[0])) == []
    for beside in clinic.agent.watch.rglob("*.json"):
        assert told(beside.read_bytes()) == []


def test_the_same_x_ray_sent_again_has_one_file_and_one_result(clinic: Clinic) -> None:
    clinic.start()
    for _ in range(3):
        assert clinic.send(clinic.samples[0]).returncode == 0
    until(clinic.results)
    assert clinic.agent.terminate() == 0
    assert len(clinic.received) == 1
    assert len(clinic.results()) == 1


def test_another_picture_under_the_same_uid_does_not_replace_the_first(clinic: Clinic) -> None:
    clinic.start()
    dataset = pydicom.dcmread(clinic.samples[0])
    other = clinic.folder / "other.dcm"
    dataset.ImageComments = "another"
    dataset.save_as(other)
    assert clinic.send(clinic.samples[0]).returncode == 0
    assert clinic.send(other).returncode == 0
    until(lambda: len(clinic.received) == 2)


PROPOSED = {
    JPEG2000Lossless: "-xv",
    JPEG2000: "-xw",
    JPEGLSLossless: "-xt",
    JPEGLSNearLossless: "-xu",
    JPEGLosslessSV1: "-xs",
    RLELossless: "-xr",
    ExplicitVRLittleEndian: "-xe",
}


def test_every_sample_in_every_transfer_syntax_arrives(clinic: Clinic, big_data: Path) -> None:
    clinic.start()
    files = [*(big_data / "dicom" / "chest").glob("*_j2k_*"), *(big_data / "dicom" / "not_chest").glob("*RG3*")]
    files = [path for path in files if "JPLY" not in path.name]
    assert len(files) >= 7
    for path in files:
        option = PROPOSED[pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID]
        sent = clinic.send("-R", option, path)
        assert sent.returncode == 0, (path.name, sent.stderr)
    until(lambda: len(clinic.results()) == len(files), timeout_s=120)


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        pytest.param(["callers = ['MODALITY']"], ["-aet", "STRANGER"], id="title"),
        pytest.param(["peers = ['192.0.2.7']"], [], id="address"),
    ],
)
def test_strangers_are_refused(clinic: Clinic, lines: list[str], options: list[str]) -> None:
    clinic.start(*lines)
    assert clinic.echo(*options).returncode != 0
    assert clinic.send(*options, clinic.samples[0]).returncode != 0
    assert clinic.received == []


def test_what_is_no_x_ray_is_refused_by_its_class(clinic: Clinic) -> None:
    clinic.start()
    dataset = pydicom.dcmread(clinic.samples[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    path = clinic.folder / "ct.dcm"
    dataset.save_as(path)
    sent = clinic.send(path)
    assert sent.returncode != 0
    assert (
        "No presentation context" in sent.stdout + sent.stderr or "no acceptable" in (sent.stdout + sent.stderr).lower()
    )
    assert clinic.received == []


def test_a_disk_that_is_nearly_full_sends_the_sender_away_for_a_while(clinic: Clinic) -> None:
    clinic.start("reserve_mb = 1e9")
    sent = clinic.send(clinic.samples[0])
    assert "A700" in (sent.stdout + sent.stderr).upper() or "OutOfResources" in sent.stdout + sent.stderr
    assert clinic.received == []


def test_a_folder_that_is_a_link_ends_the_start(clinic: Clinic) -> None:
    elsewhere = clinic.folder / "elsewhere"
    elsewhere.mkdir()
    (clinic.agent.watch / "dicom").symlink_to(elsewhere)
    config = clinic.folder / "agent.toml"
    config.write_text(f"[dicom]\nport = {clinic.port}\n")
    clinic.agent.start("--config", str(config))
    assert clinic.agent.wait() == 2
    assert "links are not followed" in clinic.agent.log.read_text()


@pytest.mark.parametrize("name", ["done", "rejected"])
def test_a_folder_that_is_not_looked_into_ends_the_start(clinic: Clinic, name: str) -> None:
    config = clinic.folder / "agent.toml"
    config.write_text(f"[dicom]\nport = {clinic.port}\nfolder = '{name}'\n")
    clinic.agent.start("--config", str(config))
    assert clinic.agent.wait() == 2


def test_a_link_that_takes_the_folders_place_gets_nothing_and_the_sender_is_told(clinic: Clinic) -> None:
    clinic.start()
    elsewhere = clinic.folder / "elsewhere"
    elsewhere.mkdir()
    (clinic.agent.watch / "dicom").symlink_to(elsewhere)
    sent = clinic.send(clinic.samples[0])
    assert "A700" in (sent.stdout + sent.stderr).upper() or "OutOfResources" in sent.stdout + sent.stderr
    assert list(elsewhere.iterdir()) == []
    assert "dicom in the watched folder is a link" in clinic.agent.log.read_text()
    (clinic.agent.watch / "dicom").unlink()
    assert clinic.send(clinic.samples[0]).returncode == 0
    until(clinic.results)


def test_a_port_that_is_taken_is_told_and_asked_for_again(clinic: Clinic, samples: Path) -> None:
    config = clinic.folder / "agent.toml"
    config.write_text(f"[dicom]\nport = {clinic.port}\n")
    with socket.create_server(("127.0.0.1", clinic.port)):
        clinic.agent.start("--config", str(config), "--settle", "0.1")
        until(lambda: "is taken by another program" in clinic.agent.log.read_text())
        xray = next(samples.glob("chest_xray/**/*.jp*g"))
        shutil.copy(xray, clinic.agent.watch / "1.jpg")
        until(lambda: clinic.agent.json("1.jpg"))
        assert "dicom port" in ask(clinic.agent.state)["problems"]
    until(lambda: clinic.echo().returncode == 0)
    assert "dicom port" not in ask(clinic.agent.state)["problems"]
    assert clinic.agent.terminate() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk needs a tmpfs, and that needs root")
def test_on_a_small_disk_the_reserve_is_a_share_of_it_as_for_the_folder(clinic: Clinic) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(clinic.agent.watch)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs a tmpfs, and this root may not mount one")
    try:
        clinic.start()
        assert clinic.send(clinic.samples[0]).returncode == 0
        until(clinic.results)
        assert clinic.agent.terminate() == 0
    finally:
        if clinic.agent.running:
            clinic.agent.kill()
        subprocess.run(["umount", clinic.agent.watch], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network that comes later needs a namespace, and that needs root")
def test_an_address_that_is_not_there_at_boot_is_told_and_asked_for_again(clinic: Clinic) -> None:
    address = f"bind = '192.0.2.7'\nport = {clinic.port}\n"
    (clinic.folder / "token").write_text("a token long enough\n")
    config = clinic.folder / "agent.toml"
    config.write_text(
        f"[dicom]\n{address}[page]\n{address.replace(str(clinic.port), str(free_port()))}token_file = 'token'\n"
    )
    # Without any route at all the kernel would let every address be bound to.
    clinic.agent.inside = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    clinic.agent.start("--config", str(config))
    until(lambda: {"dicom port", "page"} <= ask(clinic.agent.state)["problems"].keys())
    assert clinic.agent.log.read_text().count("is no address of this device now") >= 2
    inside = ["nsenter", "--net", "--target", str(clinic.agent.pid)]
    subprocess.run([*inside, "ip", "address", "add", "192.0.2.7/32", "dev", "lo"], check=True)
    until(lambda: ask(clinic.agent.state)["problems"] == {})
    subprocess.run([*inside, program("echoscu"), "192.0.2.7", str(clinic.port)], check=True)
    assert clinic.agent.terminate() == 0


def test_a_backlog_of_the_folder_sends_no_sender_away(clinic: Clinic) -> None:
    for number in range(1100):
        (clinic.agent.watch / f"{number}.jpg").write_bytes(b"x")
    clinic.start(options=("--settle", "600"))
    until(lambda: ask(clinic.agent.state)["queue"]["waiting"] >= 1100)
    sent = clinic.send(clinic.samples[0])
    assert sent.returncode == 0, sent.stdout + sent.stderr
    until(clinic.results)


def test_what_was_acknowledged_survives_a_kill(clinic: Clinic) -> None:
    clinic.start()
    paths = []
    for number in range(12):
        path = clinic.folder / f"{number}.dcm"
        identified(clinic.samples[0], path, number=number)
        paths.append(path)
    acknowledged = 0
    for path in paths:
        if clinic.send(path).returncode == 0:
            acknowledged += 1
        if acknowledged == 6:
            break
    clinic.agent.kill()
    until(lambda: len(clinic.received) == 6)
    for path in clinic.received:
        assert decode(path).pixels.std() > 5
    clinic.agent.log.unlink()
    clinic.start()
    until(lambda: len(clinic.results()) == 6)


def test_many_senders_at_once_lose_nothing(clinic: Clinic) -> None:
    clinic.start("max_associations = 3")
    paths = []
    for number in range(20):
        path = clinic.folder / f"{number}.dcm"
        identified(clinic.samples[number % len(clinic.samples)], path, number=number)
        paths.append(path)

    def insist(path: Path) -> bool:
        for _ in range(60):  # more than three at a time are told to try again
            if clinic.send(path).returncode == 0:
                return True
            time.sleep(0.2)
        return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(insist, paths))
    until(lambda: len(clinic.received) == 20)
    until(lambda: len(clinic.results()) == 20, timeout_s=90)


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": bytes(range(256)) * 400,
    "associate-of-4-gb": struct.pack(">BBI", 1, 0, 0xFFFFFFFF) + bytes(5_000_000),
    "data-before-association": struct.pack(">BBI", 4, 0, 100) + bytes(100),
    "abort": struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 0, 0),
    "half-a-header": b"\x01\x00\x00",
}


def item(kind: int, content: bytes, *, order: str = ">BBH") -> bytes:
    return struct.pack(order, kind, 0, len(content)) + content


def test_a_peer_that_speaks_out_of_turn_ends_its_own_association(clinic: Clinic) -> None:
    clinic.start("timeout_s = 2")
    context = item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2"))
    user = item(0x50, item(0x51, struct.pack(">I", 16384)))
    request = b"\0\1\0\0" + b"CXR-EDGE".ljust(16) + b"ATTACK".ljust(16) + bytes(32)
    request = item(1, request + item(0x10, b"1.2.840.10008.3.1.1.1") + context + user, order=">BBI")
    for behind in (b"", bytes(10), item(99, b"?", order=">BBI"), item(4, b"", order=">BBI")) * 5:
        with socket.create_connection(("127.0.0.1", clinic.port)) as peer:
            peer.sendall(request + behind)
            peer.recv(1)
    until(lambda: clinic.send(clinic.samples[0]).returncode == 0, what="there is room again")
    assert "Traceback" not in clinic.agent.log.read_text()


def test_garbage_on_the_port_disturbs_nobody(clinic: Clinic) -> None:
    clinic.start("timeout_s = 2")
    for garbage in GARBAGE.values():
        with socket.create_connection(("127.0.0.1", clinic.port)) as peer:
            try:
                peer.sendall(garbage)
            except OSError:
                continue  # it was hung up on before it had said all
    until(lambda: clinic.send(clinic.samples[0]).returncode == 0)  # those connections take their time to be given up
    assert clinic.agent.running
    assert "Traceback" not in clinic.agent.log.read_text()


def test_silent_peers_are_hung_up_on_and_make_room_again(clinic: Clinic) -> None:
    clinic.start("timeout_s = 2", "max_associations = 2")
    silent = [socket.create_connection(("127.0.0.1", clinic.port)) for _ in range(12)]
    until(lambda: clinic.send(clinic.samples[0]).returncode == 0, what="there is room again")
    for peer in silent:
        peer.close()
    assert len(clinic.received) == 1


def test_tls_only_with_a_certificate(clinic: Clinic, make_certificate: Callable[[str], tuple[Path, Path]]) -> None:
    ours, key = make_certificate("device")
    theirs, their_key = make_certificate("modality")
    lines = [f"tls_certificate = '{ours}'", f"tls_key = '{key}'", f"tls_ca = '{theirs}'"]
    clinic.start("timeout_s = 2", *lines)
    with socket.create_connection(("127.0.0.1", clinic.port)):  # says nothing: others must not wait for it
        good = clinic.send("+tls", their_key, theirs, "+cf", ours, clinic.samples[0])
    assert good.returncode == 0, good.stdout + good.stderr
    assert clinic.send(clinic.samples[0]).returncode != 0
    stranger, stranger_key = make_certificate("stranger")
    assert clinic.send("+tls", stranger_key, stranger, "+cf", ours, clinic.samples[0]).returncode != 0
    assert len(clinic.received) == 1


@pytest.fixture
def make_certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("needs openssl: apt-get install openssl")

    def make(name: str) -> tuple[Path, Path]:
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        extension = "subjectAltName=IP:127.0.0.1,DNS:localhost"
        command += ["-keyout", str(key), "-out", str(certificate), "-addext", extension]
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key

    return make
