"""The benchmark on a device, for whoever wants to know what it will cost there before anything is installed."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from firmware_bridge.deploy.history import tidy
from firmware_bridge.deploy.install import PYTHON
from firmware_bridge.deploy.layout import Layout
from firmware_bridge.deploy.release import APP, SITE
from firmware_bridge.errors import DeployError
from firmware_bridge.manifest import is_safe_name

_LIMIT_S = 3600.0
_NOBODY = "nobody"


def measure(
    layout: Layout, stream: IO[bytes], *, layers: Mapping[str, str], arguments: Sequence[str], models: Sequence[str]
) -> dict[str, Any]:
    """Run `cxr-edge benchmark` over files that come as a tar, as a user without rights; nothing of it stays.

    Args:
        layout: the device.
        stream: the tar: models, and images/.
        layers: hashes of code and packages, which are there.
        arguments: more options of `cxr-edge benchmark`.
        models: names of the model files in the tar.

    Returns:
        "table": for people, "report": the JSON.

    Raises:
        DeployError: the benchmark failed, or the tar holds anything but plain files.
        OSError: the disk is full.
    """
    work = Path(tempfile.mkdtemp(prefix="cxr-edge-benchmark-", dir=layout.root / "var" / "tmp"))
    try:
        _extract(stream, work)
        table = _run(layout, work, layers, [*arguments, *(word for model in models for word in ("--model", model))])
        return {"table": table, "report": json.loads((work / "report.json").read_bytes())}
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _failed("whole files, and a report", str(error), do="measure again; check the network") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        tidy(layout, keep=100)
        for folder in (layout.layers, layout.base):
            with contextlib.suppress(OSError):  # not empty: more than the benchmark is here
                folder.rmdir()


def _run(layout: Layout, work: Path, layers: Mapping[str, str], options: Sequence[str]) -> str:
    """The table of `cxr-edge benchmark` in that folder, as a user without rights.

    Raises:
        DeployError: it failed, or took too long.
    """
    account = pwd.getpwnam(_NOBODY)
    os.chown(work, account.pw_uid, account.pw_gid)
    command = [PYTHON, "-m", "toolkit.cli.main", "benchmark", "--images", "images", "--json", "report.json"]
    try:
        done = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
            cwd=work,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": f"{layout.layer(layers[APP])}:{layout.layer(layers[SITE])}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONNOUSERSITE": "1",
                "HOME": str(work),
            },
        )
    except subprocess.TimeoutExpired as error:
        do = "give fewer rounds or X-rays (--rounds, --limit)"
        raise _failed(f"an end within {_LIMIT_S:.0f} s", "none", do=do) from error
    if done.returncode:
        came = done.stderr.strip()[-500:] or f"exit code {done.returncode}"
        raise _failed("a table", came, do="run `cxr-edge benchmark` here with the same files first")
    return done.stdout


def _failed(expected: str, came: str, *, do: str) -> DeployError:
    return DeployError("the benchmark failed on the device", expected=expected, came=came[:500], do=do)


def _extract(stream: IO[bytes], folder: Path) -> None:
    with tarfile.open(fileobj=stream, mode="r|gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() and is_safe_name(member.name) else None
            if content is None:
                raise DeployError(
                    "what was sent cannot be used",
                    expected="plain files with plain names",
                    came=repr(member.name)[:80],
                    do="use the same version of cxr-edge at both ends",
                )
            path = folder / member.name
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)
