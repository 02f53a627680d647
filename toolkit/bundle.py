"""Building a bundle: the same parts give the same bytes, and nothing that cannot be opened again is left on disk."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.errors import BundleError
from firmware_bridge.manifest import (
    NAME,
    SIGNATURE_NAME,
    FileEntry,
    GoldenEntry,
    LungsEntry,
    Manifest,
    ModelEntry,
    is_safe_name,
)
from firmware_bridge.result import iso_utc
from firmware_bridge.signing import BUNDLE_CONTEXT, dump_signatures, sign
from toolkit.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# The earliest time that a zip can hold: file times would make equal bundles differ.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o100644 << 16


def build_bundle(
    out: Path,
    *,
    name: str,
    labels: tuple[str, str],
    preprocessing: Mapping[str, Any],
    models: Sequence[ModelEntry],
    files: Mapping[str, bytes | Path],
    golden: Sequence[GoldenEntry] = (),
    metrics: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    sparsity: Mapping[str, Any] | None = None,
    tools: Mapping[str, Any] | None = None,
    suitability: Mapping[str, Any] | None = None,
    lungs: LungsEntry | None = None,
    created: str | None = None,
) -> Path:
    """Write a bundle, atomically: `out` is either the whole bundle or what it was before.

    Args:
        out: the file to write; by custom it ends in `.cxr`.
        name: the bundle's name, for people.
        labels: (negative, positive).
        preprocessing: `Preprocessing.to_manifest()`.
        models: the first is the device's default.
        files: every file that the manifest names (models, heads, golden images) and any other (a model card), by its
            name inside the bundle: its bytes, or the file to copy.
        created: ISO 8601 in UTC; `made_now()` by default.

    Raises:
        BundleError: a name that a bundle may not hold, a file that cannot be read, or parts that contradict each other.
        ResourceError: the bundle cannot be written.
    """
    manifest = Manifest(
        name=name,
        created=created or made_now(),
        label_negative=labels[0],
        label_positive=labels[1],
        preprocessing=dict(preprocessing),
        models=tuple(models),
        files={},
        golden=tuple(golden),
        metrics=dict(metrics or {}),
        data=dict(data or {}),
        sparsity=dict(sparsity or {}),
        tools=dict(tools or {}),
        suitability=suitability,
        lungs=lungs,
    )
    return write_bundle(out, manifest, files)


def write_bundle(out: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Path:
    """Write the bundle of `manifest` with `files` in it; what the manifest says about files is made from them.

    Args and errors are those of `build_bundle`; a bundle that is changed wants `made_now()` as `created`.
    """
    contents = {file: _content(file, source) for file, source in sorted(files.items())}
    listed = {file: FileEntry(hashlib.sha256(raw).hexdigest(), len(raw)) for file, raw in contents.items()}
    try:
        raw = replace(manifest, files=listed).to_bytes()
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"bundle '{manifest.name}' cannot be described",
            expected="only JSON values in metrics, data, sparsity and tools, and no NaN",
            came=str(error),
            do="convert the value (NumPy numbers by float(), NaN to None)",
        ) from error
    # What this process cannot open must not replace what was there.
    write_atomically(out, _zip({NAME: raw, **contents}), verify=_verify)
    return out


def made_now() -> str:
    """When a bundle is made: SOURCE_DATE_EPOCH where it is set, else now, as ISO 8601 in UTC."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch.isdigit() else datetime.now(timezone.utc)
    return iso_utc(moment)


def sign_bundle(path: Path, key: Ed25519PrivateKey, *, out: Path | None = None) -> Path:
    """Add a signature to a bundle, beside those of other keys. The same bundle and keys give the same bytes.

    Args:
        path: the bundle.
        key: whose signature.
        out: where the signed bundle goes; None: in the place of `path`, atomically.

    Raises:
        BundleError: the bundle cannot be opened.
        ResourceError: the signed one cannot be written.
    """
    with open_bundle(path) as bundle:
        mine = sign(bundle.raw_manifest, key, context=BUNDLE_CONTEXT)
        others = [one for one in bundle.signatures if one.key_id != mine.key_id]
        contents = {NAME: bundle.raw_manifest, SIGNATURE_NAME: dump_signatures([mine, *others])}
        contents.update((name, bundle.read(name)) for name in sorted(bundle.manifest.files))
    write_atomically(out or path, _zip(contents), verify=_verify)
    return out or path


def _content(name: str, source: bytes | Path) -> bytes:
    if not is_safe_name(name):
        raise BundleError(
            f"{name!r} cannot be a file in a bundle",
            expected="a relative name of letters, digits, '.', '_', '-' and '/'",
            came=repr(name),
            do="choose a plain name",
        )
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{source} cannot go into the bundle",
            expected="a readable file",
            came=error.strerror or str(error),
            do="check the path; a training run that was cut short goes on with the same command",
        ) from error


def _zip(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in contents.items():
            member = zipfile.ZipInfo(name, _ZIP_TIME)
            member.external_attr = _FILE_MODE
            member.create_system = 3  # Unix, also when built on Windows: the same bytes everywhere
            archive.writestr(member, raw)
    return buffer.getvalue()


def _verify(bundle: Path) -> None:
    open_bundle(bundle).close()
