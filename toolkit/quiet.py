"""Hold back what native libraries write to standard error although nobody asked: device probing, delegates, converters.

A user should see progress and our lines only. Lines that are not known chatter are passed on.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# TensorFlow, absl and LiteRT log as "I0000 00:00:1700000000.1 123 file.cc:4] text" or "INFO: text".
_CHATTER = re.compile(
    r"[IW]\d{4} \d\d:|E\d{4} \d\d:.*cuda|INFO: |WARNING: All log messages before absl|fully_quantize: |^\s*$"
)
# Whoever asks for more of TensorFlow's log than this project does wants to see it.
_WANTED = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3"
_terminal: TextIO | None = None


def terminal() -> TextIO:
    """Standard error as the user sees it, also while `quiet` holds back."""
    return _terminal or sys.stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back known chatter on file descriptor 2 until the block ends. Not for two threads at once."""
    global _terminal
    if _WANTED or _terminal is not None:
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held, os.fdopen(saved, "w", buffering=1, errors="backslashreplace") as real:
        os.dup2(held.fileno(), 2)
        _terminal = real
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            _terminal = None
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not _CHATTER.match(line):
                    real.write(line + "\n")
