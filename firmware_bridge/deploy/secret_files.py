"""The secrets of a release: they change with the switch to it, and go back with it.

/etc/cxr-edge/secrets         what the service gets (systemd's LoadCredential=)
/etc/cxr-edge/secrets-next    those that a deployment brought and that differ; put in by the switch
/etc/cxr-edge/secrets-before  those of before the switch, until it is settled
/etc/cxr-edge/secrets-of/ID   those with which release ID ran last, for the way back to it

Files are linked and renamed, not copied: going back takes no room on the disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from firmware_bridge.deploy.layout import Layout
from firmware_bridge.errors import DeployError
from firmware_bridge.files import sync_folder, write_atomically

_MODE = 0o600


def _next(layout: Layout) -> Path:
    return layout.etc / "secrets-next"


def _before(layout: Layout) -> Path:
    return layout.etc / "secrets-before"


def _of(layout: Layout, id: str) -> Path:
    return layout.etc / "secrets-of" / id


def stage(layout: Layout, secrets: Mapping[str, str]) -> list[str]:
    """Keep the secrets that differ from those in use for the next switch; what was done, in words.

    Raises:
        DeployError: a name that leads elsewhere.
        OSError: the disk is full or cannot be written.
    """
    done = []
    for name, text in secrets.items():
        if "/" in name or name.startswith("."):
            raise DeployError("a secret's name leads elsewhere", expected="a plain name", came=name, do="rename it")
        waiting = _next(layout) / name
        if _holds(waiting, text):
            continue
        if _holds(layout.secrets / name, text):
            waiting.unlink(missing_ok=True)
            continue
        _folder(_next(layout))
        write_atomically(waiting, text.encode(), mode=_MODE)
        done.append(f"secret {name}")
    if done:
        sync_folder(_next(layout))
    return done


def stage_those_of(layout: Layout, id: str) -> None:
    """Keep the secrets with which a release ran for the next switch, which goes back to it.

    Raises:
        OSError: see `stage`.
    """
    folder = _of(layout, id)
    if folder.is_dir():
        stage(layout, {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()})


def forget(layout: Layout) -> None:
    """No switch is under way: what a deployment brought that never came to one, or left after one, counts no more."""
    shutil.rmtree(_next(layout), ignore_errors=True)
    shutil.rmtree(_before(layout), ignore_errors=True)


def put_in(layout: Layout) -> None:
    """Let the service have the staged ones from its next start on. Done again after a cut, it goes on.

    Raises:
        OSError: the disk cannot be written.
    """
    staged = sorted(_next(layout).iterdir()) if _next(layout).is_dir() else []
    if not staged:
        return
    _folder(layout.secrets)
    if not _before(layout).is_dir():
        _link_all(layout.secrets, _before(layout))
    for path in staged:
        path.replace(layout.secrets / path.name)
    sync_folder(layout.secrets)
    shutil.rmtree(_next(layout), ignore_errors=True)


def changed(layout: Layout) -> bool:
    """Whether the switch that is under way put others in: what runs has them until its next start."""
    return _before(layout).is_dir()


def put_back(layout: Layout) -> None:
    """Let the service have those of before the switch again. Nothing where they did not change.

    They stay noted (`changed`) until `forget`: after a cut, the service still has to be started with them.

    Raises:
        OSError: the disk cannot be written.
    """
    shutil.rmtree(_next(layout), ignore_errors=True)
    before = _before(layout)
    if not before.is_dir():
        return
    kept = {path.name for path in before.iterdir()}
    for path in list(layout.secrets.iterdir()):
        if path.name not in kept:
            path.unlink()
    for name in kept:
        _link(before / name, layout.secrets / name)
    sync_folder(layout.secrets)


def settle(layout: Layout, id: str) -> None:
    """The release that runs keeps what it runs with; what was before is gone back to no more.

    Raises:
        OSError: the disk cannot be written.
    """
    shutil.rmtree(_before(layout), ignore_errors=True)
    shutil.rmtree(_of(layout, id), ignore_errors=True)
    if layout.secrets.is_dir() and any(layout.secrets.iterdir()):
        _folder(_of(layout, id).parent)
        _link_all(layout.secrets, _of(layout, id))


def tidy(layout: Layout, *, keep: Collection[str]) -> None:
    """Remove the secrets of releases that are gone.

    Raises:
        OSError: something cannot be removed.
    """
    folder = layout.etc / "secrets-of"
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep:
            shutil.rmtree(path)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode() and path.stat().st_mode & 0o777 == _MODE
    except OSError:
        return False


def _folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def _link_all(source: Path, target: Path) -> None:
    """A folder with links to the same files; whole or not there."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _folder(part)
    for path in source.iterdir():
        if path.is_file() and not path.is_symlink():
            os.link(path, part / path.name)
    part.rename(target)
    sync_folder(target.parent)


def _link(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.back")
    part.unlink(missing_ok=True)
    os.link(source, part)
    part.replace(target)
    part.unlink(missing_ok=True)  # rename(2) leaves both where they are one file already
