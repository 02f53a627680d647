"""systemd as a script; with the real one: tests/devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Every service is down, and whatever is asked for succeeds.
SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
[ "$2" = show ] && printf 'ActiveState=failed\\nMainPID=0\\n'
exit 0
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What systemd was asked for."""
    programs, log = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    log.touch()
    (programs / "systemctl").write_text(SYSTEMCTL.format(log=log))
    (programs / "systemctl").chmod(0o755)
    (programs / "journalctl").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return log
