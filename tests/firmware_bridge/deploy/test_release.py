"""Releases: a description has one id, a switch is one link, old ones go, and nothing leads elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.deploy.history import history, newest, remember, tidy
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.manage import choose_rollback
from firmware_bridge.deploy.release import Description, parse_description, read_release, switch, write_release
from firmware_bridge.deploy.trial import unlike_any_other
from firmware_bridge.errors import DeployError
from tests.firmware_bridge.deploy import described
from tests.firmware_bridge.deploy.described import layered

DESCRIPTION = replace(
    described.DESCRIPTION,
    config='[agent]\nbundle = "@RELEASE@/bundle/bundle.cxr"\n',
    unit="[Service]\nWorkingDirectory=@RELEASE@\n",
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = layered(tmp_path, "abce")
    for hash in "abce":
        (layout.layers / f"{hash * 64}.json").write_text("{}")
    return layout


def later(number: int) -> Description:
    bundle = {**DESCRIPTION.bundle, "created": f"2026-01-0{number}T00:00:00Z"}
    return replace(DESCRIPTION, bundle=bundle)


def run(layout: Layout, description: Description) -> str:
    write_release(layout, description)
    switch(layout, layout.current, description.id)
    remember(layout, description)
    return description.id


def test_a_release_is_written_read_and_names_its_own_place(layout: Layout) -> None:
    folder = write_release(layout, DESCRIPTION)
    assert read_release(layout, DESCRIPTION.id) == DESCRIPTION
    place = f"/opt/cxr-edge/releases/{DESCRIPTION.id}"
    assert f'bundle = "{place}/bundle/bundle.cxr"' in (folder / "agent.toml").read_text()
    assert (folder / "cxr-edge.service").read_text() == f"[Service]\nWorkingDirectory={place}\n"
    assert (folder / "bundle").resolve() == layout.layer("c" * 64)
    assert (folder / "cxr-edge").stat().st_mode & 0o111


def test_the_same_content_is_the_same_release_and_any_other_is_another() -> None:
    assert parse_description(DESCRIPTION.to_json()).id == DESCRIPTION.id
    others = [replace(DESCRIPTION, watch="/srv/other"), replace(DESCRIPTION, trusted_keys="x"), later(2)]
    assert len({one.id for one in [DESCRIPTION, *others]}) == 4


def test_a_release_without_its_layers_is_refused(layout: Layout) -> None:
    with pytest.raises(DeployError, match="not complete"):
        write_release(layout, replace(DESCRIPTION, layers={**DESCRIPTION.layers, "app": "f" * 64}))


def test_a_switch_is_one_link_and_links_that_lead_elsewhere_count_for_nothing(layout: Layout) -> None:
    id = run(layout, DESCRIPTION)
    assert layout.linked_id(layout.current) == id
    layout.current.unlink()
    layout.current.symlink_to("/etc")
    assert layout.linked_id(layout.current) is None
    layout.current.unlink()
    layout.current.symlink_to("releases/0123456789abcdef")
    assert layout.linked_id(layout.current) is None


def test_the_last_releases_are_kept_with_their_layers(layout: Layout) -> None:
    ids = [run(layout, later(number)) for number in range(1, 6)]
    write_release(layout, replace(DESCRIPTION, watch="/srv/never-ran"))
    removed = tidy(layout, keep=3)
    assert history(layout) == ids[2:]
    assert len(removed) == 3
    assert sorted(path.name[0] for path in layout.layers.glob("*") if path.is_dir()) == ["a", "b", "c"]
    assert newest(layout, "chest") == "2026-01-05T00:00:00Z"


def test_going_back_does_not_forget_how_new_the_newest_was(layout: Layout) -> None:
    old, new = run(layout, later(1)), run(layout, later(2))
    assert choose_rollback(layout, None) == old
    run(layout, later(1))
    assert choose_rollback(layout, None) == new
    assert choose_rollback(layout, new[:5]) == new
    assert newest(layout, "chest") == "2026-01-02T00:00:00Z"


def test_a_release_to_go_back_to_is_named_without_doubt(layout: Layout) -> None:
    with pytest.raises(DeployError, match="nothing to go back to"):
        choose_rollback(layout, None)
    ids = [run(layout, later(number)) for number in range(1, 10)] + [
        run(layout, replace(later(number), watch="/srv/other")) for number in range(1, 10)
    ]
    *others, current = ids
    assert choose_rollback(layout, others[0]) == others[0]
    with pytest.raises(DeployError, match="names no release") as unknown:
        choose_rollback(layout, "x")
    assert [id for id in others if f"{id} (chest of 2026-01-0" not in unknown.value.expected] == []
    with pytest.raises(DeployError, match="which runs already"):
        choose_rollback(layout, current)
    # Eighteen releases and sixteen digits: two begin alike.
    first = next(id[0] for id in others if sum(one[0] == id[0] for one in others) > 1)
    with pytest.raises(DeployError, match=" and of "):
        choose_rollback(layout, first)


def test_state_that_a_power_cut_emptied_is_no_end(layout: Layout) -> None:
    id = run(layout, DESCRIPTION)
    layout.state.write_bytes(b"")
    assert history(layout) == []
    remember(layout, DESCRIPTION)
    assert history(layout) == [id]


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"layers": {"app": "../../etc", "site": "b" * 64, "bundle": "c" * 64}},
        {"layers": {"app": "a" * 64}},
        {"bundle": {"name": "x"}},
        {"config": 3},
        {"threads": ["many"]},
        {"layers": None},
    ],
)
def test_a_description_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DeployError, match="cannot be read"):
        parse_description(json.loads(json.dumps({**DESCRIPTION.to_json(), **change})))


def test_the_selftest_is_the_same_picture_in_another_file(samples: Path) -> None:
    import cv2

    from firmware_bridge.decode import decode

    pixels = decode(next(samples.glob("chest_xray/**/*.jp*g"))).pixels
    png = cv2.imencode(".png", pixels)[1].tobytes()
    one, other = unlike_any_other(png), unlike_any_other(png)
    assert len({png, one, other}) == 3
    assert (decode(one).pixels == pixels).all()
    assert unlike_any_other(b"\xff\xd8jpeg") == b"\xff\xd8jpeg"
