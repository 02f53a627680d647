"""Our own code as it goes to a device: a layer of the release, and the zip that a deployment itself runs from."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from firmware_bridge.deploy import boot
from firmware_bridge.deploy.listing import Entry
from toolkit.deploy.layer import Layer
from toolkit.extras import DISTRIBUTION

_ROOMS = ("firmware_bridge", "calibration", "toolkit")
_HOME = Path(boot.__file__).resolve().parent.parent.parent
_NOT_CODE = (".pyc", ".pyo", ".part", ".swp")
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@functools.cache
def code_layer() -> Layer:
    """All of cxr-edge, so that the device has the same commands; TensorFlow stays here."""
    sources: dict[str, Path | bytes] = {
        path.relative_to(_HOME).as_posix(): path
        for room in _ROOMS
        for path in sorted((_HOME / room).rglob("*"))
        if path.is_file() and path.suffix not in _NOT_CODE and not path.name.startswith(".")
    }
    # What `cxr-edge --version` and the doctor read.
    version = importlib.metadata.version(DISTRIBUTION)
    needs = "".join(f"Requires-Dist: {line}\n" for line in importlib.metadata.requires(DISTRIBUTION) or ())
    metadata = f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n{needs}"
    sources[f"cxr_edge-{version}.dist-info/METADATA"] = metadata.encode()
    contents = {name: one if isinstance(one, bytes) else one.read_bytes() for name, one in sources.items()}
    # Bytes, not paths: what was hashed is what is sent, though somebody edits the file meanwhile.
    listing = {name: Entry(hashlib.sha256(raw).hexdigest(), len(raw)) for name, raw in sorted(contents.items())}
    return Layer(listing, contents, python=True)


@functools.cache
def boot_code() -> bytes:
    """The source that reads the facts."""
    return Path(boot.__file__).read_bytes()


@functools.cache
def device_code() -> bytes:
    """`firmware_bridge` as a zip, out of which the device's half runs before anything is installed."""
    sources = sorted((_HOME / "firmware_bridge").rglob("*.py"))
    return _zipped({path.relative_to(_HOME).as_posix(): path.read_bytes() for path in sources})


def stick_code(site: Layer) -> bytes:
    """The same for a stick, with what reads TOML where the device's packages have it: Python has that since 3.11 alone.

    Args:
        site: the device's packages. Over SSH it is the workstation that reads trusted keys.
    """
    reader = {name: site.read(name) for name in site.listing if name.startswith("tomli/") and name.endswith(".py")}
    return _zipped(reader, behind=device_code())


def _zipped(sources: Mapping[str, bytes], *, behind: bytes = b"") -> bytes:
    """A zip of `sources`, the same bytes for the same sources; `behind` another zip's members."""
    buffer = io.BytesIO(behind)
    with zipfile.ZipFile(buffer, "a" if behind else "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in sources.items():
            member = zipfile.ZipInfo(name, _ZIP_TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, raw)
    return buffer.getvalue()
