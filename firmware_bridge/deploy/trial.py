"""The trial of a release: a golden X-ray goes through the watched folder and must get the bundle's own score.

Whoever may put X-rays into that folder may also take, exchange and forge what lies in it. So root writes through
descriptors only, believes a JSON only where the agent wrote it about this very X-ray, and tries again where somebody
meddled: that is no fault of the release.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy.foreign import open_folder, read_regular
from firmware_bridge.deploy.layout import USER, Layout
from firmware_bridge.deploy.release import BUNDLE_FILE, PROOF, Description, read_json
from firmware_bridge.files import write_atomically
from firmware_bridge.identity import KEY_NAME
from firmware_bridge.manifest import GoldenEntry
from firmware_bridge.result import image_id
from firmware_bridge.selftest import ANNOUNCED, PREFIX

RIGHT, WAIT, MEDDLED = "", "wait", "meddled"
HANGS = "nothing: the agent hangs"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRIES = 3
_TICK_S = 0.1
# The agent moves an X-ray before or after its JSON is there; longer than this nothing lies in between.
_GONE_S = 3.0
_MOST_JSON_BYTES = 1_000_000
# Where the agent puts scored and refused X-rays depends on its settings.
_PLACES = ("", "done", "rejected")


@dataclass(frozen=True, slots=True)
class Placed:
    """An X-ray in the watched folder.

    Attributes:
        folder: descriptor of the folder.
        name: of the file.
        inode: of the file, (device, number): another one under that name is another's.
        id: by which the agent's record names it.
        case: what its score must be.
        agent: the agent's user.
    """

    folder: int
    name: str
    inode: tuple[int, int]
    id: str
    case: GoldenEntry
    agent: int

    def answer(self) -> str:
        """RIGHT, WAIT, MEDDLED, or what is wrong with the score."""
        for place in _PLACES:
            if said := self._beside(place):
                return said if said != "right" else RIGHT
        return WAIT

    def is_there(self) -> bool:
        """Whether it still lies where it was put."""
        try:
            status = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.inode

    def _beside(self, place: str) -> str:
        """What the JSON in that place says; "right"; empty where the agent has written none."""
        record = None
        with suppress(OSError, ValueError, RecursionError), _opened(self.folder, place) as where:
            name = f"{self.name}.cxr.json"
            raw = read_regular(name, most_bytes=_MOST_JSON_BYTES, folder=where, owner=self.agent)
            record = json.loads(raw)
        if not isinstance(record, dict):
            return ""
        image = record.get("image")
        if not isinstance(image, dict) or (self.id and image.get("id") != self.id):
            return MEDDLED
        probability = record.get("probability")
        if not isinstance(probability, float):
            refused = record.get("refused")
            return f"a refusal: {refused.get('what') if isinstance(refused, dict) else 'of no known reason'}"
        if not abs(probability - self.case.probability) <= self.case.tolerance:
            return f"{probability:.4f} for {self.case.probability:.4f} ± {self.case.tolerance:.4f}"
        return "right"


def try_release(layout: Layout, description: Description, *, still_up: Callable[[], None], limit_s: float) -> str:
    """Let a golden X-ray go through the watched folder.

    Args:
        layout: the device.
        description: the release that runs.
        still_up: called again and again; raises where the service ended.
        limit_s: how long the agent may take.

    Returns:
        What is wrong: RIGHT, HANGS, MEDDLED (others in the folder kept us from finding out), or the wrong score.

    Raises:
        OSError: the watched folder cannot be written.
    """
    said = MEDDLED
    for _ in range(_TRIES):
        with _placed(layout, description) as placed:
            said = _wait(placed, still_up, limit_s)
        if said != MEDDLED:
            break
    return said


def _wait(placed: Placed, still_up: Callable[[], None], limit_s: float) -> str:
    deadline_s = time.monotonic() + limit_s
    gone_s = None
    while (said := placed.answer()) == WAIT:
        still_up()
        now_s = time.monotonic()
        if placed.is_there():
            gone_s = None
            if now_s > deadline_s:
                return HANGS
        elif gone_s is None:
            gone_s = now_s
        elif now_s - gone_s > _GONE_S:
            return MEDDLED
        time.sleep(_TICK_S)
    return said


@contextmanager
def _placed(layout: Layout, description: Description) -> Iterator[Placed]:
    release = layout.release(description.id)
    chosen = str(read_json(release / PROOF)["chosen"]["model"])
    with open_bundle(release / BUNDLE_FILE) as bundle:
        case = next(case for case in bundle.manifest.golden if case.model == chosen)
        image = unlike_any_other(bundle.read(case.file))
    sha256, name = hashlib.sha256(image).hexdigest(), f"{PREFIX}{secrets.token_hex(6)}.png"
    folder = os.open(layout.root / description.watch.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Known as ours, so that nobody is told of a patient that there is not.
        write_atomically(ANNOUNCED, sha256.encode(), mode=0o644)
        inode = _put(folder, name, image)
        yield Placed(folder, name, inode, _id(layout, sha256), case, _agent())
    finally:
        for place in _PLACES:
            with suppress(OSError), _opened(folder, place) as where:
                for left in (name, f".{name}", f"{name}.cxr.json"):
                    with suppress(OSError):
                        os.unlink(left, dir_fd=where)
        os.close(folder)
        with suppress(OSError):
            ANNOUNCED.unlink(missing_ok=True)


def _put(folder: int, name: str, image: bytes) -> tuple[int, int]:
    """Write a file that nobody can have us write elsewhere; its device and inode."""
    hidden = f".{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(hidden, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(image)
        # On the file itself: under its name there may be a link to another one by now.
        os.fchmod(file.fileno(), 0o644)
        status = os.fstat(file.fileno())
    with suppress(FileNotFoundError):  # taken away already: `is_there` will tell
        os.rename(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
    return status.st_dev, status.st_ino


@contextmanager
def _opened(folder: int, place: str) -> Iterator[int]:
    """A folder in the watched one, or that itself."""
    handle = open_folder(place, folder=folder) if place else os.dup(folder)
    try:
        yield handle
    finally:
        os.close(handle)


def _id(layout: Layout, sha256: str) -> str:
    """How the agent names the X-ray; empty where its key cannot be read."""
    try:
        return image_id(sha256, read_regular(layout.agent_state / KEY_NAME, most_bytes=64))
    except OSError:
        return ""


def _agent() -> int:
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:  # in tests
        return os.geteuid()


def unlike_any_other(png: bytes) -> bytes:
    """The same pixels as a file that nobody has seen before: the agent reports a file that it knows only once.

    A tEXt chunk (PNG specification, 11.3.4.3) with random text goes in behind IHDR; other files stay as they are.
    """
    if not png.startswith(PNG_SIGNATURE):
        return png
    end = len(PNG_SIGNATURE) + 25  # IHDR: length, type, 13 bytes, checksum
    content = b"tEXtcxr-edge-selftest\0" + secrets.token_hex(16).encode()
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:end] + chunk + png[end:]
