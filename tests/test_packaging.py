"""What `pip install .` puts onto a machine: everything that the three rooms hold, the model that ships included."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = "toolkit", "calibration", "firmware_bridge"
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def test_the_wheel_holds_every_file_of_the_rooms(tmp_path: Path) -> None:
    clone, out = tmp_path / "clone", tmp_path / "out"
    out.mkdir()
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, clone / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, clone)
    files = [path for room in ROOMS for path in (clone / room).rglob("*") if path.is_file()]
    there = {path.relative_to(clone).as_posix() for path in files}
    assert "firmware_bridge/models/kermany.cxr" in there

    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=clone, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        missing = there - set(archive.namelist())

    assert sorted(missing) == []
