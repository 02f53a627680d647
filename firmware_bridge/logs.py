"""The log: lines for a person, for journald, or JSON. One event is one line, whatever its text holds.

For journald a line begins with its priority, sd-daemon(3), has no time of its own, and the rest is key=value:

    <6>thread=mqtt logger=outbox msg="MQTT broker localhost:1883: connected (MQTT 5)"
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

from firmware_bridge.result import iso_utc
from firmware_bridge.settings import setting

_OURS = ("firmware_bridge", "calibration", "toolkit", "__main__")
_QUOTING = ("py", "pydicom", "pynetdicom", "PIL")  # "py.warnings": see `logging.captureWarnings`
_NAMED = re.compile(r"(\[Errno \d+\] [^:\n]+): .*")
_LEVELS = ("debug", "info", "warning", "error")
# syslog(3): the kernel of a device knows no more of them than these.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))


@dataclass(frozen=True, slots=True)
class LogSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "log"
    level: str = setting("info", "What is worth a line at least.", choices=_LEVELS)
    format: str = setting(
        "auto", "auto: journal where journald listens, else text.", choices=("auto", "text", "journal", "json")
    )


def set_up(settings: LogSettings) -> None:
    """Log to stderr as told; called again, the new settings hold from then on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[_chosen(settings.format)]())
    handler.addFilter(_is_worth_a_line)
    logging.captureWarnings(True)  # of the libraries; see the filter
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, (_Text, _Journal, _Json)):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether it is ours, or a library's that cannot hold what stands in a file, or the name of one.

    With level `debug` Pillow writes down every tag of a TIFF, and watchdog every path. pydicom's lines and warnings
    quote values at any level; what matters of them comes as an exception.
    """
    if record.name.partition(".")[0] in _OURS:
        return True
    return record.levelno >= logging.WARNING and record.name.partition(".")[0] not in _QUOTING


def _chosen(form: str) -> str:
    if form != "auto":
        return form
    # systemd.exec(5): set when stdout or stderr go to the journal; whose of the two it is, the numbers tell.
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return "text"
    return "journal" if (device, inode) == (str(status.st_dev), str(status.st_ino)) else "text"


class _Nameless(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name in `logging`
        """The trace without the file's name that an OSError quotes at its end: it can be a patient's."""
        return _NAMED.sub(r"\1", super().formatException(ei))


class _Text(_Nameless):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # as another handler's formatter had it
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in `logging`
        """A line feed or an escape in a text (a file's name can hold both) is shown, not obeyed. Traces have lines."""
        line = super().formatMessage(record)
        return (
            line
            if line.isprintable()
            else "".join(
                letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line
            )
        )


class _Journal(_Nameless):
    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        pairs = " ".join(f"{key}={_quoted(value)}" for key, value in _facts(self, record).items())
        return f"<{priority}>{pairs}"


class _Json(_Nameless):
    def format(self, record: logging.LogRecord) -> str:
        moment = iso_utc(datetime.fromtimestamp(record.created, timezone.utc), timespec="milliseconds")
        head = {"time": moment, "level": record.levelname.lower()}
        return json.dumps({**head, **_facts(self, record)}, ensure_ascii=False)


_FORMATTERS = {"text": _Text, "journal": _Journal, "json": _Json}


def _facts(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    facts = {"thread": record.threadName or "", "logger": record.name.rpartition(".")[2], "msg": record.getMessage()}
    if record.exc_info:
        facts["trace"] = formatter.formatException(record.exc_info)
    return facts


def _quoted(value: str) -> str:
    if value and value.isascii() and all(letter.isalnum() or letter in "._-:/" for letter in value):
        return value
    # JSON's escapes keep a line feed in a text from beginning a line of its own.
    return json.dumps(value, ensure_ascii=False)
