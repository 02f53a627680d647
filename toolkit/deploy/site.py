"""The packages that a device needs, chosen here for its Python and C library: it needs no internet and no compiler."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import importlib.metadata
import json
import py_compile
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge.deploy.listing import Entry, dump_listing, list_folder, parse_listing
from firmware_bridge.errors import DeployError
from toolkit.deploy.layer import Layer, archive, cache_folder, unique
from toolkit.deploy.uv_environment import uv_environment
from toolkit.extras import DISTRIBUTION
from toolkit.files import write_atomically

# Raised when `_LEFT_OUT` or the command changes: what is in the cache was made otherwise.
_RECIPE = 3
# A few MB: then every section of the agent's file works, and changing it sends no packages.
EXTRAS = ("dicom", "dicom-net", "page")
_LIMIT_S = 900
_STEPS = ("Resolved", "Downloading", "Prepared", "Installed")  # of what uv says: what takes long
_NEWEST_MANYLINUX = 40
# Nothing of this runs on a device: tests, headers, type information, other vendors' compilers, and the runtime's
# library for GPUs in browsers.
_LEFT_OUT = re.compile(
    r"(^|/)(tests?|testing/tests|include|__pycache__)/|\.(pyi|pxd|h|hpp|a|pyx)$|^bin/|^\.lock$|[Ww]eb[Gg]pu|_wgpu"
    r"|\.(c|pc)$|^pydicom/data/(test_files|charset_files)/|^ai_edge_litert/(tools|vendors)/|^cv2/data/"
    r"|(^|/)(INSTALLER|RECORD|REQUESTED|direct_url\.json|uv_cache\.json)$"
)


def build_site(*, machine: str, python: str, glibc: str, say: Callable[[str], None] = lambda _line: None) -> Layer:
    """The packages for one kind of device; from the cache where it has them.

    Args:
        machine: "aarch64" or "x86_64".
        python: "3.11".
        glibc: "2.36": no package may ask for a later one.
        say: called with what is fetched; with nothing where the cache has all.

    Raises:
        DeployError: uv finds no set of packages that fits, or no index.
        ResourceError: the disk is full.
    """
    constraints = _constraints(python)
    wanted = requirements()
    platform = f"{machine}-manylinux_2_{min(int(glibc.split('.')[1]), _NEWEST_MANYLINUX)}"
    recipe = json.dumps([_RECIPE, wanted, constraints, platform, python, _same_python(python)])
    folder = cache_folder() / "sites" / hashlib.sha256(recipe.encode()).hexdigest()[:32]
    listed = folder.with_suffix(".json")
    with _alone(folder):
        if not listed.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            say(f"fetching the packages for Python {python} on {machine}: once, about 130 MB, kept in {cache_folder()}")
            _install(folder, wanted, constraints, platform=platform, python=python, say=say)
            say("compiling and hashing them")
            write_atomically(listed, dump_listing(_listing(folder, compiled=_same_python(python))))
    listing = parse_listing(listed.read_bytes())
    layer = Layer(listing, {name: folder / name for name in listing}, python=not _same_python(python))
    with _alone(folder):
        archive(layer, unique(layer))  # now, and not while the first device waits with its lock held
    return layer


def _same_python(python: str) -> bool:
    """Whether what is compiled here is what a device with that Python would compile."""
    return sys.implementation.name == "cpython" and f"{sys.version_info[0]}.{sys.version_info[1]}" == python


def _listing(folder: Path, *, compiled: bool) -> dict[str, Entry]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _LEFT_OUT.search(path.relative_to(folder).as_posix()):
            path.unlink()
    if compiled:  # once here instead of on every device; unchecked, because a layer's files never change
        how = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(folder, quiet=2, workers=0, stripdir=str(folder), invalidation_mode=how)
    return list_folder(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def requirements() -> list[str]:
    """The base requirements of this distribution and of the extras that devices get, as it was installed."""
    found = []
    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if extra is None:
            found.append(line)
        elif extra.group(1) in EXTRAS:
            found.append(requirement)
    return sorted(found)


def _constraints(python: str) -> str:
    """The tested versions: of the clone where this runs from one; else those installed here, for the same Python."""
    pinned = Path(__file__).resolve().parent.parent.parent / "constraints.txt"
    if pinned.is_file():
        return pinned.read_text(encoding="utf-8")
    import platform

    if not platform.python_version().startswith(f"{python}."):
        return ""
    found = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name != DISTRIBUTION)


def _install(
    folder: Path, wanted: list[str], constraints: str, *, platform: str, python: str, say: Callable[[str], None]
) -> None:
    from uv import find_uv_bin

    pins = folder.with_suffix(".txt")
    write_atomically(pins, constraints)
    command = [find_uv_bin(), "pip", "install", "--target", str(folder), "--link-mode", "copy"]
    command += ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:"]
    command += ["--color", "never", "--constraint", str(pins), *wanted]
    said: list[str] = []
    ended = threading.Event()
    with subprocess.Popen(
        command,
        env=uv_environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as uv:

        def end() -> None:
            ended.set()
            uv.kill()

        late = threading.Timer(_LIMIT_S, end)
        late.start()
        try:
            assert uv.stderr is not None
            for line in uv.stderr:
                said.append(line)
                if line.strip().startswith(_STEPS):
                    say(line.strip())
        finally:
            late.cancel()
            uv.kill()  # only where the loop was left early: it has ended otherwise
    if ended.is_set():
        raise _no_packages(platform, python, f"no end within {_LIMIT_S} s")
    if uv.returncode:
        raise _no_packages(platform, python, "".join(said).strip()[-1500:])


def _no_packages(platform: str, python: str, came: str) -> DeployError:
    return DeployError(
        f"there are no packages for Python {python} on {platform}",
        expected="uv to find and fetch them here",
        came=came,
        do="check the network and the package index (pip config list, or UV_DEFAULT_INDEX); then deploy again, the "
        "device was not touched",
    )
