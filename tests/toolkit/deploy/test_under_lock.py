"""What a plan was made from is looked at again once nobody else can change it."""

from __future__ import annotations

import asyncio
import io
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.errors import DowngradeError
from toolkit.deploy import deploy
from toolkit.deploy.ask import roll_back
from toolkit.deploy.deploy import Options, deploy_to
from toolkit.deploy.settings import prepare
from toolkit.deploy.show import Lines
from toolkit.deploy.ssh import Access

from .test_answers import STOCK, TOLD, impostor, listening
from .test_plan import DONE, LAYERS, WANTED
from .test_targets import PI_12

OLDER = {**DONE, "layers": {**DONE["layers"], LAYERS["bundle"].hash: "absent"}, "newest": {}}
NEWER = {**OLDER, "newest": {"chest": "2026-12-31T00:00:00Z"}}


def test_a_newer_bundle_that_came_before_the_lock_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(request: bytes) -> Any:
        asked.append(json.loads(request)["do"])
        if asked[-1] == "stock":
            return {"done": NEWER if "lock" in asked else OLDER}
        return {"done": None}

    facts = {**asdict(PI_12), "clock_s": time.time()}
    monkeypatch.setattr(deploy, "wanted_for", lambda *_arguments, **_options: WANTED)

    async def body() -> None:
        access = Access(tmp_path / "known_hosts", answer_limit_s=30.0)
        async with listening(impostor(facts=facts, answer=answer), tmp_path, "pi") as host:
            prepared = prepare(replace(host, target="rpi"), {})
            parcel: Any = None  # what is made of it stands above
            await deploy_to(prepared, parcel, access, Options(), Lines(io.StringIO()))

    with pytest.raises(DowngradeError, match="older than what ran there"):
        asyncio.run(body())
    assert asked == ["stock", "lock", "stock"]


@pytest.mark.parametrize(
    ("to", "changed", "goes"), [("", False, True), ("", True, False), ("0123", True, True)], ids=str
)
def test_a_rollback_behind_somebody_elses_goes_nowhere_unless_it_names_where(
    tmp_path: Path, to: str, changed: bool, goes: bool
) -> None:
    asked: list[str] = []

    def answer(request: bytes) -> Any:
        asked.append(json.loads(request)["do"])
        if asked[-1] == "stock":
            return {"done": {**STOCK, "current": "old" if changed and "lock" in asked else "new"}}
        return {"done": changed} if asked[-1] == "lock" else {"error": TOLD}

    async def body() -> Any:
        access = Access(tmp_path / "known_hosts", answer_limit_s=30.0)
        async with listening(impostor(answer=answer), tmp_path, "pi") as host:
            news = Lines(io.StringIO())
            return await roll_back([host], access, lambda _host: None, news, to=to or None, watch_s=1.0, keep=3)

    (ended,) = asyncio.run(body())
    assert ("prove_earlier" in asked) is goes
    assert ("somebody else changed" in str(ended.error)) is not goes
