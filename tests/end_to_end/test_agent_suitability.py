"""A real agent with a lung network: what it refuses, and what it tells of where a score comes from."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from firmware_bridge.decode import decode
from toolkit.cli.main import run as cxr_edge


def test_a_picture_without_lungs_is_refused_with_its_reason_and_the_next_one_is_scored(
    lungs_bundle: Path, samples: Path, tmp_path: Path
) -> None:
    watch = tmp_path / "in"
    watch.mkdir()
    cv2.imwrite(str(watch / "a.png"), np.random.default_rng(0).integers(0, 256, (400, 300)).astype(np.uint8))
    xray = sorted(samples.glob("chest_xray/test/NORMAL/*.jpg"))[0]
    (watch / "b.jpg").write_bytes(xray.read_bytes())
    (tmp_path / "agent.toml").write_text("[explain]\noverlay = true\n", encoding="utf-8")
    command = ["agent", "--watch", watch, "--bundle", lungs_bundle, "--state", tmp_path / "state", "--once"]
    assert cxr_edge([*map(str, command), "--config", str(tmp_path / "agent.toml")]) == 0
    places = [watch, watch / "done", watch / "rejected"]
    found = {path.name: json.loads(path.read_text()) for place in places for path in place.glob("*.cxr.json")}
    refused, scored = found["a.png.cxr.json"], found["b.jpg.cxr.json"]
    assert refused["refused"]["reason"] == "no_lungs"
    assert "probability" not in refused
    assert refused["image"]["width_px"] == 300
    assert 0 <= scored["explanation"]["lung_share"] <= 1
    assert scored["timings_ms"]["lungs"] > 0
    (overlay,) = [path for place in places for path in place.glob("b.jpg.cxr.png")]
    picture = cv2.imread(str(overlay))
    pixels = decode(xray).pixels
    assert picture.shape[1] / pixels.shape[1] <= 1
    assert not list(watch.glob("a.png.cxr.png"))
