"""Which files of an archive are X-rays by their names, and how a name is written as text."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from firmware_bridge.beside import is_taken_name
from toolkit.data.readers import SHADOW_FOLDER, SUFFIXES

_ADDRESS = re.compile(r"[a-z0-9+.-]+://[^\s'\"<>]*", re.IGNORECASE)
# fsspec's way to name what is in a file: `zip://FOLDER::FILE`. Elsewhere "::" is a part of a name.
IN_A_FILE = re.compile(r"((?:zip|tar|libarchive)://.*?)::(.+)", re.DOTALL | re.IGNORECASE)
_DIRECTORY_FILE = "DICOMDIR"  # PS3.10, 8: the table of contents of a DICOM medium


@dataclass(frozen=True, slots=True)
class Item:
    """One X-ray of an archive.

    Attributes:
        path: its name in the archive, as text (see `as_text`): what results call it.
        location: where a worker reads it: an absolute path, or an address for fsspec.
        kept: the values of the columns that the user keeps, in their order.
        problem: why it cannot even be tried; empty where it can.
    """

    path: str
    location: str
    kept: tuple[object, ...] = ()
    problem: str = ""


def is_xray_name(name: str) -> bool:
    """Whether a file of that name is taken: an image's suffix, none at all, or the last number of a DICOM UID."""
    suffix = PurePosixPath(name).suffix.lower()
    known = suffix in SUFFIXES or suffix == "" or suffix[1:].isdigit()
    return known and is_taken_name(name) and name != _DIRECTORY_FILE


def is_searched_folder(name: str) -> bool:
    """Whether a folder of that name is looked into."""
    return not name.startswith(".") and name != SHADOW_FOLDER


def as_text(name: str) -> str:
    r"""A name as UTF-8 text: other bytes as `\xNN`, and therefore a backslash as `\\`, so that no two names become one.

    Args:
        name: as Python keeps it (PEP 383: bytes that are not UTF-8 as lone surrogates).
    """
    if "\\" not in name and name.isprintable():
        return name
    escaped = name.replace("\\", "\\\\")
    try:
        escaped.encode("utf-8")
    except UnicodeEncodeError:
        return "".join(_letter(char) for char in escaped)
    return escaped


def _letter(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return char if not 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def key_of(path: str) -> bytes:
    """16 bytes that stand for a path: two of a billion paths share theirs with a probability of 1e-21."""
    return hashlib.blake2b(path.encode("utf-8"), digest_size=16).digest()


def without_secrets(address: str) -> str:
    """An address without user, password and query: it is stored and shown."""
    if "://" not in address:
        return address
    if chained := IN_A_FILE.fullmatch(address):
        return "::".join(map(without_secrets, chained.groups()))
    try:
        parts = urlsplit(address)
    except ValueError:  # such as a bracket that nothing closes
        return f"{address.partition('://')[0]}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def what_came(error: BaseException) -> str:
    """What a file system of fsspec raised, on one line; addresses in it without what may be secret."""
    # fsspec's FileNotFoundError, whatever a server answers or that none does, says the address alone: the cause knows.
    status = getattr(error.__cause__, "status", None) or getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    text = f"status {status}" if status else f"{type(error).__name__}: {error}"
    return " ".join(_ADDRESS.sub(lambda found: without_secrets(found[0]), text).split())
