"""Opening a bundle: one `.cxr` file (a zip without compression) with everything that the device needs to score.

Nothing is unpacked to disk, and nothing is trusted before its SHA-256 stands in the manifest. No compression means no
decompression bomb; a member that is not in the manifest means no bundle.
"""

from __future__ import annotations

import hashlib
import stat
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from firmware_bridge.errors import BundleError, SignatureError
from firmware_bridge.manifest import (
    NAME,
    SIGNATURE_NAME,
    TFLITE_RUNTIME,
    FileEntry,
    Manifest,
    is_safe_name,
    kind_of,
)
from firmware_bridge.manifest_parse import parse_manifest
from firmware_bridge.result import BundleRef
from firmware_bridge.signing import BUNDLE_CONTEXT, MAX_SIGNATURE_BYTES, Signature, parse_signatures, require_signature
from firmware_bridge.trust import TrustedKey

if TYPE_CHECKING:
    from firmware_bridge.score import Scorer

SUFFIX = ".cxr"
MAX_BUNDLE_BYTES = 2 * 2**30
MAX_MANIFEST_BYTES = 2**20
MAX_MEMBERS = 1000
_CHUNK_BYTES = 2**20
_COPY_AGAIN = "copy the bundle again, or build it again with `cxr-edge bundle build`"


class Bundle:
    """An open, verified bundle. Thread-safe; close it, or use it in a `with`.

    Attributes:
        path: where it was opened.
        manifest: what it says about itself.
        id: SHA-256 of the bytes of its manifest, which names the SHA-256 of every other file: one id, one content.
        raw_manifest: the bytes of its manifest: what is signed.
        signatures: what stands in `manifest.sig`, not yet verified; empty where there is none.
    """

    def __init__(
        self,
        path: Path,
        archive: zipfile.ZipFile,
        manifest: Manifest,
        *,
        raw_manifest: bytes,
        signatures: Sequence[Signature] = (),
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.id = hashlib.sha256(raw_manifest).hexdigest()
        self.raw_manifest = raw_manifest
        self.signatures = tuple(signatures)
        self._archive = archive
        self._lock = threading.Lock()

    @property
    def ref(self) -> BundleRef:
        """How results name this bundle."""
        return BundleRef(self.id, self.manifest.name)

    def read(self, name: str) -> bytes:
        """The bytes of one file, verified again: what is used is what was hashed.

        Raises:
            BundleError: no such file, or it is not as the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise _damaged(self.path, f"a file '{name}' in the bundle", "there is none")
        with self._lock:
            content = _read_member(self._archive, name, self.path)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _damaged(self.path, f"'{name}' with SHA-256 {entry.sha256}", "other bytes")
        return content

    def require_trust(self, trusted: Sequence[TrustedKey]) -> TrustedKey:
        """The key that signed this bundle.

        Raises:
            SignatureError: it is unsigned, signed by nobody in `trusted`, or was changed since.
        """
        try:
            return require_signature(
                self.raw_manifest,
                self.signatures,
                trusted,
                context=BUNDLE_CONTEXT,
                created=self.manifest.created,
            )
        except SignatureError as error:
            what = f"bundle {self.path} is not trusted: {error.what}"
            raise SignatureError(what, expected=error.expected, came=error.came, do=error.do) from error

    def scorer(
        self,
        precision: str | None = None,
        *,
        threads: int = 2,
        runtime: str = TFLITE_RUNTIME,
        engines: Path | None = None,
    ) -> Scorer:
        """The scorer of this bundle: model, head, calibration and preprocessing together.

        Args:
            precision: "int8" or "fp16"; without it the bundle's default model.
            threads: threads of the interpreter.
            runtime: what runs the model, see `firmware_bridge.backends`.
            engines: folder of TensorRT engines that were built here.

        Raises:
            BundleError: no such model, or an unknown preprocessing step.
            MissingExtraError: the runtime is not installed.
            ModelError: the interpreter cannot load the model.
        """
        # NumPy, OpenCV and the interpreter load here: reading a manifest needs none of them.
        from firmware_bridge.backends import open_backend
        from firmware_bridge.lungs import LungFinder
        from firmware_bridge.preprocess import Preprocessing
        from firmware_bridge.score import Calibration, Head, Scorer
        from firmware_bridge.suitability import Judge, Statistics

        entry = self.manifest.model(precision, kind=kind_of(runtime))
        calibration = entry.calibration
        lungs, suitability = self.manifest.lungs, self.manifest.suitability
        return Scorer(
            open_backend(self.read(entry.file), runtime, threads=threads, precision=entry.precision, engines=engines),
            Head.from_bytes(self.read(entry.head)),
            Calibration(calibration.temperature, calibration.bias, calibration.threshold),
            Preprocessing.from_manifest(dict(self.manifest.preprocessing)),
            finder=LungFinder(self.read(lungs.file)) if lungs else None,
            # Fitted to one model's features: another precision goes without.
            judge=Judge(Statistics.from_bytes(self.read(suitability["file"])))
            if lungs and suitability and suitability.get("model") == self.manifest.model(entry.precision).file
            else None,
        )

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: Path, *, trusted: Sequence[TrustedKey] | None = None) -> Bundle:
    """Open and verify a bundle: structure, manifest, the SHA-256 of every file and, where keys are given, who signed.

    Args:
        path: the file.
        trusted: the keys that may have signed it; None: nobody asks.

    Raises:
        BundleError: missing, damaged, incomplete, of a newer schema, or built to harm (traversal, links, bombs).
        SignatureError: see `Bundle.require_trust`.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
            raise _damaged(path, "a bundle file", "a folder, pipe or device")
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise BundleError(
            f"bundle {path} cannot be opened",
            expected="a bundle file",
            came="no such file",
            do="check the path, or build a bundle with `cxr-edge bundle build`",
        ) from error
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(path, "a bundle file (zip)", str(error)) from error
    try:
        bundle = _verify(path, archive)
        if trusted is not None:
            bundle.require_trust(trusted)
        return bundle
    except BaseException:
        archive.close()
        raise


def _verify(path: Path, archive: zipfile.ZipFile) -> Bundle:
    members = archive.infolist()
    _check_structure(path, members)
    raw = _read_member(archive, NAME, path)
    manifest = parse_manifest(raw)
    found = {member.filename: member.file_size for member in members}  # sizes in bytes
    del found[NAME]
    signatures = _signatures(path, archive, found.pop(SIGNATURE_NAME, None))
    for name in sorted(found.keys() ^ manifest.files.keys()):
        came = "it is there without being listed" if name in found else "it is listed without being there"
        raise _damaged(path, f"'{name}' both in the manifest and in the file", came)
    for name, entry in manifest.files.items():
        if found[name] != entry.size_bytes:
            raise _damaged(path, f"'{name}' with {entry.size_bytes} bytes", f"{found[name]} bytes")
        _check_hash(path, archive, name, entry)
    return Bundle(path, archive, manifest, raw_manifest=raw, signatures=signatures)


def _signatures(path: Path, archive: zipfile.ZipFile, size_bytes: int | None) -> tuple[Signature, ...]:
    if size_bytes is None:
        return ()
    if size_bytes > MAX_SIGNATURE_BYTES:
        raise _damaged(path, f"a signature of at most {MAX_SIGNATURE_BYTES} bytes", f"{size_bytes} bytes")
    return parse_signatures(_read_member(archive, SIGNATURE_NAME, path))


def _check_structure(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise _damaged(path, f"at most {MAX_MEMBERS} files", str(len(members)))
    if not members or members[0].filename != NAME:
        raise _damaged(path, f"'{NAME}' as the first file", repr(members[0].filename)[:80] if members else "no file")
    if members[0].file_size > MAX_MANIFEST_BYTES:
        raise _damaged(path, f"a manifest of at most {MAX_MANIFEST_BYTES} bytes", f"{members[0].file_size} bytes")
    size_bytes = path.stat().st_size
    # Without compression the members cannot be larger than the file, unless they overlap.
    if sum(member.file_size for member in members) > min(size_bytes, MAX_BUNDLE_BYTES):
        raise _damaged(path, f"at most {min(size_bytes, MAX_BUNDLE_BYTES)} bytes inside", "more")
    seen: set[str] = set()
    for member in members:
        problem = _member_problem(member, seen)
        if problem:
            raise _damaged(path, "plain files without compression, each once, with plain relative names", problem)
        seen.add(member.filename)


def _member_problem(member: zipfile.ZipInfo, seen: set[str]) -> str:
    shown = repr(member.orig_filename)[:80]
    # zipfile cuts a name at a NUL byte; only the name as written counts.
    if member.orig_filename != member.filename or not is_safe_name(member.filename):
        return f"the name {shown}"
    if member.filename in seen:
        return f"{shown} twice"
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        return f"{shown} compressed"
    if member.flag_bits & 0x1:
        return f"{shown} encrypted"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return f"{shown}, which is a link, a folder or a device"
    return ""


def _check_hash(path: Path, archive: zipfile.ZipFile, name: str, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    try:
        with archive.open(name) as member:
            while chunk := member.read(_CHUNK_BYTES):
                digest.update(chunk)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise _damaged(path, f"'{name}' readable", str(error)) from error
    if digest.hexdigest() != entry.sha256:
        raise _damaged(path, f"'{name}' with SHA-256 {entry.sha256}", digest.hexdigest())


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (OSError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError) as error:
        raise _damaged(path, f"'{name}' readable", str(error)) from error


def _damaged(path: Path, expected: str, came: str) -> BundleError:
    return BundleError(f"bundle {path} is damaged", expected=expected, came=came, do=_COPY_AGAIN)
