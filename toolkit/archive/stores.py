"""The fsspec file system that an address means: which one, opened how, and shared by which other addresses."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.errors import ConfigError, MissingExtraError
from toolkit.archive.names import IN_A_FILE, what_came, without_secrets
from toolkit.archive.walk import cannot_read
from toolkit.data.index import absolute

_ARCHIVE = "fo"  # the option of fsspec that says the same as `::FILE` in an address
_HOST = "host"
# Names of folders are not kept: an archive of millions would not fit.
_NO_CACHE = {"use_listings_cache": False}


def is_known(address: str) -> bool:
    """Whether fsspec knows the protocol of an address, installed or not."""
    from fsspec.registry import known_implementations, registry

    protocol = address.partition("://")[0]
    return protocol in registry or protocol in known_implementations


def resolved(text: str, storage: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An address and all options that lead there, also for other names of the same file system.

    Args:
        text: an address; `zip://FOLDER::ARCHIVE` becomes `zip://FOLDER` and an option.
        storage: the user's options; they come before what the address says itself (host, user, ...).

    Raises:
        ConfigError: an unknown protocol.
        MissingExtraError: a package for it is not installed.
    """
    options = dict(storage)
    if _ARCHIVE not in options and (chained := IN_A_FILE.fullmatch(text)):
        text, options[_ARCHIVE] = chained.groups()
    if _ARCHIVE in options and "://" not in options[_ARCHIVE]:
        options[_ARCHIVE] = str(absolute(Path(options[_ARCHIVE])))
    return text, {**_said_by(text), **options}


def store_of(location: str, storage: Mapping[str, Any]) -> Hashable:
    """What is equal for addresses that one opened file system serves.

    A connection to one host (FTP, SFTP, SMB) can do one thing at a time, so each thread has its own.
    """
    text, options = resolved(location, storage)
    said = tuple(sorted((name, str(value)) for name, value in options.items()))
    return text.partition("://")[0], said, threading.get_ident() if _HOST in options else 0


def open_files(text: str, storage: Mapping[str, Any]) -> tuple[Any, str]:
    """The fsspec file system of an address and the name there; (None, absolute path) for what lies here.

    Raises:
        ConfigError: an unknown protocol, or options that it does not know.
        InputError: it does not answer, or is not there.
        MissingExtraError: a package for it is not installed.
    """
    if "://" not in text:
        return None, str(absolute(Path(text)))
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    text, options = resolved(text, storage)
    # SFTP hands what it does not know on to the connection. (`walk_remote` empties such a cache folder by folder.)
    kept = {} if _HOST in options else _NO_CACHE
    try:
        # One instance for each call: none is shared.
        files = fsspec.filesystem(text.partition("://")[0], **{**kept, **options}, skip_instance_cache=True)
        path = files._strip_protocol(text)
    except ImportError as error:
        raise _not_installed(text, error) from error
    except OSError as error:
        raise cannot_read(shown(text, options), "a place that answers", what_came(error)) from error
    except Exception as error:  # TypeError for an option, and what a file system adds
        raise _unopened(shown(text, options), error) from error
    if isinstance(files, LocalFileSystem):
        return None, os.path.normpath(path)
    return files, path


def _said_by(text: str) -> dict[str, Any]:
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(text.partition("://")[0])
        said: dict[str, Any] = kind._get_kwargs_from_urls(text)  # what fsspec itself asks of an address
    except ImportError as error:
        raise _not_installed(text, error) from error
    except Exception as error:  # ValueError for a protocol or a port that is none
        raise _unopened(without_secrets(text), error) from error
    return said


def _not_installed(text: str, error: ImportError) -> MissingExtraError:
    protocol = text.partition("://")[0]
    return MissingExtraError(
        f"{protocol}:// needs a package of its own",
        expected=f"fsspec's implementation of {protocol}",
        came=" ".join(str(error).split())[:200],
        do="install the package that the line above names (for s3://: pip install s3fs), also on a cluster's nodes",
    )


def _unopened(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{name} cannot be opened",
        expected="an address that fsspec knows, with options that its file system knows",
        came=what_came(error)[:200],
        do="check the address, the file and --storage-option; in a file: zip://FOLDER::ARCHIVE",
    )


def shown(text: str, options: Mapping[str, Any]) -> str:
    """A resolved address as it is stored and shown, with the file that it is in."""
    return "::".join(without_secrets(part) for part in (text, options.get(_ARCHIVE)) if part is not None)
