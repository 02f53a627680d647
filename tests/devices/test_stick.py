"""A device without a network, installed by hand from a stick: with Debian's Python, and with 3.10 as on JetPack 6."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from emulated.host import Host
from emulated.workstation import Workstation, fingerprint, require_runs

PLACE = "opt/python-3.10"
LIMIT_S = 600


def python_3_10(folder: Path) -> Path:
    """A layer whose /usr/bin/python3 is a 3.10 of this machine: `python3.10`, or what CXR_EDGE_PYTHON_3_10 names."""
    program = os.environ.get("CXR_EDGE_PYTHON_3_10") or shutil.which("python3.10") or "none"
    asked = "import json, sys, sysconfig; print(json.dumps([sys.base_prefix, sysconfig.get_config_var('LDLIBRARY')]))"
    try:
        done = subprocess.run([program, "-I", "-c", asked], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("needs a Python 3.10 with a prefix of its own: CXR_EDGE_PYTHON_3_10=FILE")
    prefix, library = json.loads(done.stdout)
    if prefix in ("/usr", "/usr/local"):
        pytest.skip("needs a Python 3.10 with a prefix of its own, not the system's: CXR_EDGE_PYTHON_3_10=FILE")
    left_out = shutil.ignore_patterns("site-packages", "__pycache__", "test", "idlelib", "share", "include", "*.a")
    shutil.copytree(prefix, folder / PLACE, symlinks=True, ignore=left_out)
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/bin/python3").symlink_to(f"/{PLACE}/bin/python3.10")
    if (shared := Path(prefix, "lib", library)).name.endswith(".so"):
        (folder / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
        shutil.copy(shared, folder / "usr/lib/x86_64-linux-gnu" / shared.resolve().name)
    return folder


@pytest.mark.parametrize("python", ["3.11", pytest.param("3.10", marks=pytest.mark.devices_all)])
def test_from_a_stick_by_hand(
    python: str,
    make_host: Callable[..., Host],
    workstation: Workstation,
    old: Path,
    new: Path,
    xray: Path,
    tmp_path: Path,
) -> None:
    layers = [python_3_10(tmp_path / "layer")] if python == "3.10" else []
    host = make_host(layers=layers)
    assert host.inside("/usr/bin/python3", "-V").stdout.strip().startswith(f"Python {python}.")
    stick = host.root / "mnt/stick"
    workstation.write_folder(old, tmp_path / "stick", python=python)
    shutil.copytree(tmp_path / "stick", stick)
    install = ["sh", "/mnt/stick/install"]
    unknown = host.inside(*install, check=False)
    assert unknown.returncode == 6
    assert "--trust" in unknown.stderr
    host.inside(*install, "--trust", workstation.key_id, timeout_s=LIMIT_S)
    require_runs(host, old, xray)
    before = fingerprint(host)
    assert "nothing changed" in host.inside(*install, timeout_s=LIMIT_S).stdout
    assert fingerprint(host) == before
    current = "/opt/cxr-edge/current"
    elsewhere = host.inside("cxr-edge", "rollback", check=False)
    assert elsewhere.returncode == 7
    assert "python3 -m firmware_bridge.deploy" in elsewhere.stderr
    by_hand = f"cd / && PYTHONPATH={current}/app:{current}/site python3 -m firmware_bridge.deploy "
    first = host.inside("readlink", current).stdout
    shutil.rmtree(stick)
    workstation.write_folder(new, tmp_path / "second", python=python)
    shutil.copytree(tmp_path / "second", stick)
    host.inside(*install, timeout_s=LIMIT_S)
    require_runs(host, new, xray)
    assert "runs again" in host.inside("sh", "-c", by_hand + "rollback", timeout_s=LIMIT_S).stdout
    assert host.inside("readlink", current).stdout == first
    status = json.loads(host.inside("sh", "-c", by_hand + "status").stdout)
    assert [one["current"] for one in status["releases"]] == [False, True]
    assert "/opt/cxr-edge" in host.inside("sh", "-c", by_hand + "uninstall", timeout_s=LIMIT_S).stdout
    assert not (host.root / "opt/cxr-edge").exists()
    assert (host.root / "var/lib/cxr-edge/device.key").exists()
