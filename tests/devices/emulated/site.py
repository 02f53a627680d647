"""The agent's packages for a device's Python and processor, chosen and fetched on this machine; kept in the cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import tomllib

from emulated.rootfs import Release, cache_folder, locked
from toolkit.deploy.uv_environment import uv_environment

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent
PLACE = "/usr/local/lib/cxr-edge-packages"
_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = {"bookworm": "2_36", "trixie": "2_40"}
# Nothing of these runs on a device.
_LEFT_OUT = "**/*[Ww]eb[Gg]pu*", "**/tests", "**/include"


def packages(release: Release) -> Path:
    """A layer for a device's root file system: the base requirements at `PLACE`, in the tested versions."""
    needs = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    constraints = REPOSITORY / "constraints.txt"
    platform = f"{_MACHINE[release.arch]}-manylinux_{_GLIBC[release.suite]}"
    recipe = repr((needs, constraints.read_text(), platform, release.python, _LEFT_OUT, PLACE))
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = cache_folder() / f"packages-{release.suite}-{release.arch}-{key}"
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            target = unfinished / PLACE.lstrip("/")
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(target)]
            command += ["--python-platform", platform, "--python-version", release.python, "--only-binary", ":all:"]
            command += ["--link-mode", "copy", "--constraint", str(constraints), *needs]
            done = subprocess.run(command, env=uv_environment(), capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"no packages for {platform}:\n{done.stderr}")
            for pattern in _LEFT_OUT:
                for path in sorted(target.glob(pattern)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            unfinished.rename(folder)
    return folder
