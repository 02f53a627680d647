"""Claims: one winner for each file, put back when its holder dies, and never through somebody's link."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firmware_bridge.claims import FOLDER, Claims, Lost
from firmware_bridge.rename import free_name, move_new

STALE_S = 900.0


@pytest.fixture
def watch(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    (folder / "study").mkdir(parents=True)
    return folder


@pytest.fixture
def make(watch: Path) -> Iterator[Callable[..., Claims]]:
    made: list[Claims] = []

    def start(owner: str, problems: list[str | None] | None = None) -> Claims:
        told = (lambda _: None) if problems is None else problems.append
        made.append(Claims(watch, owner, stale_s=STALE_S, problem=told))
        return made[-1]

    yield start
    for one in made:
        one.close()


def put(path: Path, content: bytes = b"x") -> Path:
    path.write_bytes(content)
    return path


def test_a_claim_moves_the_file_and_a_release_puts_it_back(watch: Path, make: Callable[..., Claims]) -> None:
    claims = make("one")
    path = put(watch / "study" / "a\n\udcff.jpg")
    where = claims.claim(path)
    assert where == watch / FOLDER / "one" / "study" / path.name
    assert claims.where(path) == where
    assert (path.exists(), where.exists()) == (False, True)
    claims.release(path)
    assert (path.exists(), where.exists()) == (True, False)
    claims.close()
    assert not (watch / FOLDER).exists(), "nothing is left behind"


def test_of_two_agents_one_wins_each_file(watch: Path, make: Callable[..., Claims]) -> None:
    paths = [put(watch / f"{number}.jpg") for number in range(300)]
    won: dict[str, list[Path]] = {"one": [], "two": []}

    def take(name: str, claims: Claims) -> None:
        for path in paths:
            try:
                claims.claim(path)
            except Lost:
                continue
            won[name].append(path)

    threads = [threading.Thread(target=take, args=(name, make(name))) for name in won]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won["one"] + won["two"]) == sorted(paths)


def test_what_is_scored_stays_claimed_until_its_json_lies_there(watch: Path, make: Callable[..., Claims]) -> None:
    killed = make("one")
    scored, taken = put(watch / "study" / "scored.jpg"), put(watch / "study" / "taken.jpg")
    for path in (scored, taken):
        killed.claim(path)
    os.close(killed._lock)  # type: ignore[arg-type] # as a kill would
    killed._home = killed._lock = None
    again = make("one")
    assert again.put_back(keep={scored}) == 1
    assert (scored.exists(), taken.exists()) == (False, True)
    with pytest.raises(Lost):
        make("two").claim(scored)
    again.release(scored)
    assert scored.exists()


def test_a_new_file_under_the_name_of_a_claimed_one_is_not_replaced(watch: Path, make: Callable[..., Claims]) -> None:
    claims = make("one")
    path = put(watch / "a.jpg", b"old")
    claims.claim(path)
    put(path, b"new")
    claims.release(path)
    assert path.read_bytes() == b"new"
    (other,) = watch.glob("a~*.jpg")
    assert other.read_bytes() == b"old"


def test_what_a_killed_agent_held_is_put_back_when_it_starts_again(watch: Path, make: Callable[..., Claims]) -> None:
    killed = make("one")
    path = put(watch / "study" / "a.jpg")
    killed.claim(path)
    os.close(killed._lock)  # type: ignore[arg-type] # as a kill would
    killed._home = killed._lock = None
    assert make("one").put_back() == 1
    assert path.exists()


def test_two_agents_of_one_name_keep_apart(watch: Path, make: Callable[..., Claims]) -> None:
    first, cloned = make("one"), make("one")
    path = put(watch / "a.jpg")
    first.claim(path)
    assert cloned.put_back() == 0, "it is alive"
    other = put(watch / "b.jpg")
    assert cloned.claim(other) == watch / FOLDER / "one-2" / "b.jpg"


def test_another_agents_claims_are_put_back_when_it_is_dead_and_silent(
    watch: Path, make: Callable[..., Claims]
) -> None:
    home = watch / FOLDER / "dead"
    (home / "study").mkdir(parents=True)
    put(home / "study" / "a.jpg")
    stamp = put(home / ".alive", b"")
    claims = make("one")
    claims.tidy()
    assert not (watch / "study" / "a.jpg").exists(), "it may be alive: its stamp is young"
    long_ago_s = time.time() - STALE_S - 60
    os.utime(stamp, (long_ago_s, long_ago_s))
    claims.tidy()
    assert (watch / "study" / "a.jpg").exists()
    assert not home.exists()


def test_an_old_stamp_is_not_enough_while_its_owner_lives(watch: Path, make: Callable[..., Claims]) -> None:
    alive = make("two")
    path = put(watch / "a.jpg")
    where = alive.claim(path)
    long_ago_s = time.time() - STALE_S - 60
    os.utime(watch / FOLDER / "two" / ".alive", (long_ago_s, long_ago_s))
    make("one").tidy()
    assert where.exists()


def test_a_link_in_place_of_the_folder_is_not_followed(
    watch: Path, make: Callable[..., Claims], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (watch / FOLDER).symlink_to(tmp_path / "elsewhere")
    problems: list[str | None] = []
    path = put(watch / "a.jpg")
    assert make("one", problems).claim(path) == path
    assert path.exists()
    assert "cannot be claimed" in (problems[-1] or "")


def test_a_watched_folder_that_is_away_is_not_made(watch: Path, make: Callable[..., Claims]) -> None:
    claims = make("one")
    path = put(watch / "a.jpg")
    watch.rename(watch.with_name("away"))
    with pytest.raises(Lost):
        claims.claim(path)
    assert not watch.exists()


def test_a_move_never_replaces_a_file(watch: Path) -> None:
    old, new = put(watch / "old", b"old"), put(watch / "new", b"new")
    with pytest.raises(FileExistsError):
        move_new(new, old)
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("name", [b"x" * 251 + b".jpg", b"." * 255, b"\xff" * 255, b"a.jpg", b"no-suffix"])
def test_a_name_beside_another_fits(watch: Path, name: bytes) -> None:
    path = put(watch / os.fsdecode(name))
    beside = free_name(path, "7")
    assert beside != path
    put(beside)
    assert len(os.fsencode(beside.name)) <= 255
