"""What a device says, which may be broken or somebody else's: bounded, printable, of the shape asked for."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any, Protocol

import firmware_bridge.errors
from firmware_bridge.errors import CxrEdgeError, DeployError

# The longest honest line is a stock: a hash for each file on the device, a few MB after years of releases.
_LINE_BYTES = 2**26
_PIECE_BYTES = 2**18
_SHOWN = 200
_WORDS = 4000

# A shape: a type; `object` for anything; None for null; (a, b): one of them; [a]: a list of it; {str: a}: a table of
# it; {"key": a}: a table with that key and any others, where "key?" need not be there.
_TOLD = {"what": str, "expected": str, "came": str, "do": str}
_OUTCOME = {"state?": str, "now?": str, "error?": (None, _TOLD)}
_CHOSEN = {"precision": str, "threads": int, "median_ms": float, "runtime": str, "delegate": str}
_SETTINGS = {"config": str, "unit": str, "trusted_keys": str, "app": str, "site": str}
_RELEASE = {
    "id": str,
    "bundle": {"name": str, "created": str},
    "current": bool,
    "chosen": (None, {"precision": str, "median_ms": float, "runtime": str}),
    "signed_by": (None, {"name": str}),
    "tensorrt": (None, str),
    "put_together?": str,
    "active_since?": (None, str),
    "settings?": _SETTINGS,
}
SHAPES: Mapping[str, Any] = {
    "stock": {
        "layers": {str: str},
        "content": [str],
        "current": (None, str),
        "running?": (None, _SETTINGS),
        "activating": (None, str),
        "releases": [str],
        "proven": [str],
        "newest": {str: str},
        "installed": bool,
        "secrets": {str: str},
        "service": {"active": str, "enabled": bool},
    },
    "prepare": [str],
    "engines": {"reason": str, "engines": [{"model": str, "error": str}]},
    "prove": {"chosen": _CHOSEN, "tensorrt?": (None, str)},
    "switch": _OUTCOME,
    "settle": _OUTCOME,
    "prove_earlier": {"id": str, "broker": bool},
    "status": {
        "current": (None, str),
        "activating": (None, str),
        "health": (None, {"active": str, "restarts": int, "status": str}),
        "releases": [_RELEASE],
        "failed": [{"id": str, "error": _TOLD}],
    },
    "logs": [str],
    "measure": {"table": str, "report": object},
    "uninstall": [str],
}


def printable(text: str) -> str:
    """`text` with what steers a terminal, or hides in a line, as U+FFFD; line breaks and tabs stay."""
    return "".join(one if one in "\n\t" or unicodedata.category(one) not in _STEERING else "\ufffd" for one in text)


_STEERING = ("Cc", "Cf", "Cs")  # control characters, direction marks, halves of surrogate pairs


def last_words(raw: bytes) -> str:
    """The last line of what a process said; empty: it said nothing."""
    lines = printable(raw.decode("utf-8", "replace")).strip().splitlines()
    return lines[-1][-_SHOWN:] if lines else ""


class _Stream(Protocol):
    async def read(self, n: int, /) -> bytes: ...


class Lines:
    """Lines of a stream; asyncssh's own give half a line back where one is longer than its window.

    Attributes:
        tail: what came last and has no line break yet.
    """

    def __init__(self, host: str, stream: _Stream) -> None:
        self._host, self._stream = host, stream
        self.tail = bytearray()
        self._whole: list[bytes] = []

    async def next(self) -> bytes:
        """The next line, with its line break; without one at the end of the stream, empty after it.

        Raises:
            DeployError: it does not end.
        """
        while not self._whole:
            piece = await self._stream.read(_PIECE_BYTES)
            if not piece:
                rest, self.tail = bytes(self.tail), bytearray()
                return rest
            *whole, unfinished = piece.split(b"\n")
            if whole:
                whole[0] = bytes(self.tail) + whole[0]
                self._whole = [line + b"\n" for line in reversed(whole)]
                self.tail.clear()
            self.tail += unfinished
            if len(self.tail) > _LINE_BYTES:
                raise senseless(self._host, "a line", f"more than {_LINE_BYTES // 2**20} MB without an end")
        return self._whole.pop()


def parse(host: str, line: bytes) -> dict[str, Any]:
    """The table in a line, its texts made printable.

    Raises:
        DeployError: it is none.
    """
    try:
        content = _clean(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise senseless(host, "a line of JSON", line[:_SHOWN].decode("utf-8", "replace")) from error
    if not isinstance(content, dict):
        raise senseless(host, "a table", repr(content))
    return content


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    if isinstance(value, dict):
        return {printable(key): _clean(one) for key, one in value.items()}
    return value


def require_shape(host: str, do: str, answer: Any) -> Any:
    """`answer`, if it is one to the request `do`.

    Raises:
        DeployError: it is not.
    """
    wrong = misfit(answer, SHAPES.get(do, object), f"the answer to '{do}'")
    if wrong:
        raise senseless(host, *wrong)
    return answer


def misfit(value: Any, shape: Any, where: str) -> tuple[str, str] | None:
    """(what was expected, what came) where `value` is not of `shape`; None where it is."""
    wrong: list[tuple[str, str] | None] = []
    if isinstance(shape, tuple):
        wrong = [misfit(value, one, where) for one in shape]
        return None if None in wrong else wrong[-1]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} as a list", repr(value)
        wrong = [misfit(one, shape[0], f"{where}[]") for one in value]
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} as a table", repr(value)
        if str in shape:
            wrong = [misfit(one, shape[str], f"{where}.{key}") for key, one in value.items()]
        else:
            wrong = [_misfit_key(value, key, one, where) for key, one in shape.items()]
    elif not _is_a(value, shape):
        return f"{where} as {getattr(shape, '__name__', 'nothing')}", repr(value)
    return next((one for one in wrong if one), None)


def _misfit_key(table: Mapping[str, Any], key: str, shape: Any, where: str) -> tuple[str, str] | None:
    name = key.rstrip("?")
    if name not in table:
        return None if key != name else (f"{where}.{name}", "nothing of that name")
    return misfit(table[name], shape, f"{where}.{name}")


def _is_a(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is float:  # JSON writes 2.0 as 2, and Python reads 1e999
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def error_of(host: str, told: Any) -> CxrEdgeError:
    """The error that a device told of. Only kinds that are made of four parts; any other is a DeployError.

    Raises:
        DeployError: it is told in another way.
    """
    wrong = misfit(told, {"kind?": str, **_TOLD}, "an error")
    if wrong:
        raise senseless(host, *wrong)
    kind = vars(firmware_bridge.errors).get(told.get("kind", ""))
    if not (isinstance(kind, type) and issubclass(kind, CxrEdgeError) and kind.__init__ is CxrEdgeError.__init__):
        kind = DeployError
    what, expected, came, do = (told[part][:_WORDS] for part in _TOLD)
    error: CxrEdgeError = kind(f"{host}: {what}", expected=expected, came=came, do=do)
    return error


def senseless(host: str, expected: str, came: str) -> DeployError:
    """An answer that nobody understands."""
    return DeployError(
        f"{host}: what the device says makes no sense",
        expected=expected,
        came=printable(came)[:_SHOWN] or "nothing",
        do="look whether its Python or root's shell prints something of its own (sitecustomize.py, /etc/profile); "
        "then deploy again: the device runs what it ran",
    )
