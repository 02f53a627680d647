"""Results out of a journal, as CSV, JSON lines or FHIR, a few hundred rows in memory at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError
from firmware_bridge.journal_reader import open_reader, results
from firmware_bridge.result import NOTICE, dump, iso_utc

DECISIONS = ("positive", "negative", "refused")
# column -> where in the record
COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "time": ("time",),
    "image": ("image", "id"),
    "name": ("image", "name"),
    "format": ("image", "format"),
    "width_px": ("image", "width_px"),
    "height_px": ("image", "height_px"),
    "bundle": ("bundle", "id"),
    "bundle_name": ("bundle", "name"),
    "label_positive": ("label_positive",),
    "probability": ("probability",),
    "logit": ("logit",),
    "threshold": ("threshold",),
    "decision": ("decision",),
    "refused": ("refused", "what"),
    "refused_came": ("refused", "came"),
    "notice": ("notice",),
}
# OWASP, "CSV Injection": a cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which results.

    Attributes:
        since: none before this moment (see `moment`); empty: from the first.
        until: none at or after this moment; empty: to the last.
        decisions: of these; empty: all.
    """

    since: str = ""
    until: str = ""
    decisions: tuple[str, ...] = ()

    def takes(self, record: Mapping[str, Any]) -> bool:
        """Whether that record is one of them."""
        time = record["time"]
        if (self.since and time < self.since) or (self.until and time >= self.until):
            return False
        return not self.decisions or decision_of(record) in self.decisions


def decision_of(record: Mapping[str, Any]) -> str:
    """The decision of a record, "refused" for one without a score."""
    return "refused" if "refused" in record else str(record["decision"])


def moment(text: str) -> str:
    """A moment as the records write it, from "2026-11-24", "2026-11-24T10:30", with "Z" or "+01:00"; else local time.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        # Python 3.10 does not know the Z.
        parsed = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
        return iso_utc(parsed.astimezone(timezone.utc), timespec="milliseconds")
    except (ValueError, OverflowError) as error:
        example = iso_utc(datetime.now(timezone.utc) - timedelta(days=1))
        raise ConfigError(
            f"{text!r} is not a moment",
            expected="a date or a date with a time, ISO 8601",
            came=str(error),
            do=f"write it like {example[:10]} or {example}",
        ) from error


def export_lines(state: Path, *, form: str, choice: Choice) -> Iterator[str]:
    """The lines of the export, newline included, oldest result first; the agent may be running.

    A deployment's golden X-rays are left out.

    Args:
        state: the state folder.
        form: "csv" (a header, then a row for each), "jsonl" (each record as it was published) or "fhir" (a transaction
            Bundle of R4 for each, one a line; checked where the extra 'fhir' is installed).
        choice: which.

    Raises:
        ConfigError: no journal there.
        ResourceError: it cannot be read.
        InvalidFhir: a Bundle that is none: a fault of ours.
    """
    line = fhir_line if form == "fhir" else _csv_line
    with open_reader(state) as journal:
        if form == "csv":
            yield _row(list(COLUMNS))
        for _, text in results(journal, selftests=False):
            record = json.loads(text)
            if choice.takes(record):
                yield text + "\n" if form == "jsonl" else line(record)


def _csv_line(record: Mapping[str, Any]) -> str:
    return _row([_cell(record, path) for path in COLUMNS.values()])


def fhir_line(record: Mapping[str, Any]) -> str:
    """A result record as one line of FHIR, in which nobody is named; checked where the extra 'fhir' is installed.

    Raises:
        InvalidFhir: a Bundle that is none: a fault of ours.
    """
    from firmware_bridge.fhir import fhir_bundle
    from firmware_bridge.fhir_validate import can_validate, validate

    bundle = fhir_bundle(record)
    if can_validate():
        validate(bundle)
    return dump(bundle) + "\n"


def _cell(record: Mapping[str, Any], path: Sequence[str]) -> object:
    value: Any = record
    for key in path:
        value = value.get(key, "") if isinstance(value, Mapping) else ""
    if path == ("decision",):
        value = decision_of(record)
    if path == ("notice",):
        value = value or NOTICE
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


def _row(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)  # RFC 4180
    return buffer.getvalue()
