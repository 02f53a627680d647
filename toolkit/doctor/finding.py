"""One thing that the doctor found."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass


class Status(str, enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"  # worth knowing; nothing is wrong
    PROBLEM = "problem"  # something will not work, or not as it should


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands, and the command that mends it."""

    check: str
    status: Status
    message: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as plain strings."""
        return {**asdict(self), "status": self.status.value}


def ok(check: str, message: str) -> Finding:
    """A finding where all is well."""
    return Finding(check, Status.OK, message)


def note(check: str, message: str, mend: str = "") -> Finding:
    """A finding worth knowing."""
    return Finding(check, Status.NOTE, message, mend)


def problem(check: str, message: str, mend: str) -> Finding:
    """A finding that something will go wrong."""
    return Finding(check, Status.PROBLEM, message, mend)
