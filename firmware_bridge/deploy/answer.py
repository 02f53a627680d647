"""What a release's own code may answer: known fields, known values. It becomes the agent's environment and status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from firmware_bridge.errors import DeployError
from firmware_bridge.manifest import MODEL_RUNTIMES, PRECISIONS, is_safe_name

_MOST_TEXT, _MOST_ROWS, _MOST_THREADS = 500, 1000, 1024


def checked_proof(said: Any) -> dict[str, Any]:
    """The proof with nothing in it but what one may hold.

    Raises:
        DeployError: it is none.
    """
    try:
        signed_by = {name: _text(said["signed_by"][name]) for name in ("name", "id")}
        tried = [_row(row) for row in _rows(said["tried"])]
        return {"signed_by": signed_by, "tried": tried, "chosen": _chosen(said["chosen"])}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DeployError(
            "the proof of the new release is none",
            expected="a model file of a known precision, whole threads, a known runtime",
            came=_printable(f"{type(error).__name__}: {error}")[:200],
            do="do not use this release here; deploy again with cxr-edge as it was published",
        ) from error


def checked_error(said: Any) -> dict[str, str]:
    """The four parts of an error that such code told of, in its own words; what it left out is "not said"."""
    told = said if isinstance(said, Mapping) else {}
    return {name: _text(str(told.get(name, "not said"))) for name in ("what", "expected", "came", "do")}


def checked_engines(said: Any) -> dict[str, Any]:
    """What became of each TensorRT engine.

    Raises:
        ValueError, TypeError, LookupError: it is none of that.
    """
    engines = []
    for row in _rows(said["engines"]):
        found: dict[str, Any] = {"model": _text(row["model"]), "error": _text(row["error"])}
        if not found["error"]:
            found.update(seconds=_number(row.get("seconds", 0.0)), built=row.get("built") is True)
        engines.append(found)
    return {"engines": engines, "reason": _text(said["reason"])}


def _chosen(row: Any) -> dict[str, Any]:
    found = _row(row)
    if not found["holds"] or found["median_ms"] is None:
        raise ValueError("a model file that does not hold")
    return found


def _row(row: Any) -> dict[str, Any]:
    precision, threads, run_by = row["precision"], row["threads"], row.get("run_by", MODEL_RUNTIMES[0])
    if precision not in PRECISIONS or run_by not in MODEL_RUNTIMES:
        raise ValueError(f"precision {precision!r}, runtime {run_by!r}")
    if type(threads) is not int or not 1 <= threads <= _MOST_THREADS:
        raise ValueError(f"threads {threads!r}")
    if not isinstance(row["model"], str) or not is_safe_name(row["model"]):
        raise ValueError(f"model {row['model']!r}")
    numbers = {name: None if row[name] is None else _number(row[name]) for name in ("median_ms", "max_difference")}
    texts = {name: _text(row[name]) for name in ("error", "runtime", "delegate")}
    chosen = {"model": row["model"], "precision": precision, "threads": threads, "holds": row["holds"] is True}
    return {**chosen, "run_by": run_by, **numbers, **texts}


def _rows(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST_ROWS:
        raise TypeError("no list, or too long a one")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return _printable(value)[:_MOST_TEXT]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
