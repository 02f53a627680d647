"""The trial of a release in a folder where others write too: nobody gets root to touch anything else, or a veto."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy import trial
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import PROOF, Description, write_json, write_release
from firmware_bridge.deploy.trial import HANGS, MEDDLED, RIGHT, try_release
from firmware_bridge.result import image_id
from firmware_bridge.shipped import shipped_bundle

KEY = b"k" * 32


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, Description]:
    layout = Layout(tmp_path / "root")
    monkeypatch.setattr(trial, "ANNOUNCED", tmp_path / "announced")
    monkeypatch.setattr(trial, "_GONE_S", 0.3)
    for hash in ("a", "b", "c"):
        layout.layer(hash * 64).mkdir(parents=True)
    (layout.layer("c" * 64) / "bundle.cxr").symlink_to(shipped_bundle())
    with open_bundle(shipped_bundle()) as bundle:
        created, id, golden = bundle.manifest.created, bundle.id, bundle.manifest.golden
    description = Description(
        layers={"app": "a" * 64, "site": "b" * 64, "bundle": "c" * 64},
        bundle={"name": "chest", "id": id, "created": created},
        target="linux-x86-64",
        config="",
        unit="",
        trusted_keys="",
        watch="/srv/cxr-edge",
    )
    write_json(write_release(layout, description) / PROOF, {"chosen": {"model": golden[0].model}})
    (layout.root / "srv/cxr-edge").mkdir(parents=True)
    layout.agent_state.mkdir(parents=True)
    (layout.agent_state / "device.key").write_bytes(KEY)
    return layout, description


def tried(device: tuple[Layout, Description], other: Callable[[Path], None], *, limit_s: float = 1.0) -> str:
    """The trial, while `other` is called again and again with the watched folder."""
    layout, description = device
    folder, done = layout.root / "srv/cxr-edge", threading.Event()

    def go_on() -> None:
        while not done.is_set():
            other(folder)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        return try_release(layout, description, still_up=lambda: None, limit_s=limit_s)
    finally:
        done.set()
        thread.join()


def answer(folder: Path, *, probability: float | None = None, id: str = "") -> None:
    """Write beside each X-ray there what an agent would."""
    for xray in folder.glob("[!.]*.png"):
        if not xray.is_file() or xray.is_symlink():
            continue
        raw = xray.read_bytes()
        with open_bundle(shipped_bundle()) as bundle:
            right = bundle.manifest.golden[0].probability
        image = {"id": id or image_id(hashlib.sha256(raw).hexdigest(), KEY)}
        record = {"image": image, "probability": right if probability is None else probability}
        part = folder / ".answer"
        part.write_text(json.dumps(record))
        part.rename(folder / f"{xray.name}.cxr.json")


def test_a_right_score_is_taken_and_nothing_stays(device: tuple[Layout, Description]) -> None:
    assert tried(device, answer) == RIGHT
    assert [path for path in (device[0].root / "srv/cxr-edge").iterdir() if path.suffix == ".png"] == []


def test_a_wrong_score_and_none_at_all_are_told(device: tuple[Layout, Description]) -> None:
    assert " for " in tried(device, lambda folder: answer(folder, probability=2.0))
    assert tried(device, lambda _folder: None, limit_s=0.3) == HANGS


def test_links_that_others_put_there_lead_root_nowhere(device: tuple[Layout, Description], tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("secret")
    victim.chmod(0o600)

    def exchange(folder: Path) -> None:
        for xray in [*folder.glob(".cxr*.png"), *folder.glob("cxr*.png")]:
            if not xray.is_symlink():
                link = folder / ".link"
                link.unlink(missing_ok=True)
                link.symlink_to(victim)
                link.rename(xray)

    assert tried(device, exchange) == MEDDLED
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("secret", 0o600)


def test_who_takes_the_xray_away_has_no_veto(device: tuple[Layout, Description]) -> None:
    def take(folder: Path) -> None:
        for xray in folder.glob("cxr*.png"):
            xray.unlink(missing_ok=True)

    assert tried(device, take) == MEDDLED


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to write as somebody else")
def test_a_forged_refusal_counts_for_nothing(device: tuple[Layout, Description]) -> None:
    def forge(folder: Path) -> None:
        for xray in folder.glob("cxr*.png"):
            part = folder / ".forged"
            part.write_text(json.dumps({"image": {"id": "x"}, "refused": {"what": "forged"}}))
            os.chown(part, 65534, 65534)
            part.rename(folder / f"{xray.name}.cxr.json")

    assert tried(device, forge, limit_s=0.5) == HANGS


def test_a_record_of_another_picture_is_meddling(device: tuple[Layout, Description]) -> None:
    assert tried(device, lambda folder: answer(folder, id="f" * 64)) == MEDDLED
