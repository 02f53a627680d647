"""Ed25519 signatures (RFC 8032) over what a device is asked to trust, and the keys that it trusts.

A signature is made over a context and the bytes of a manifest, so that a signature over a bundle can never pass for one
over anything else. The manifest names the SHA-256 of every file: one signature covers them all.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firmware_bridge.errors import ConfigError, SignatureError
from firmware_bridge.trust import TrustedKey, key_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA = 1
KIND = "cxr-edge-signature"
BUNDLE_CONTEXT = b"cxr-edge bundle manifest 1\0"
FOLDER_CONTEXT = b"cxr-edge deploy folder 1\0"
_HOW = {
    BUNDLE_CONTEXT: "`cxr-edge bundle sign BUNDLE --key FILE`",
    FOLDER_CONTEXT: "`cxr-edge deploy --to-usb --key FILE`",
}
MAX_SIGNATURE_BYTES = 16_384
_MAX_SIGNATURES = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature: whose, and its 64 bytes."""

    key_id: str
    value: bytes


def sign(content: bytes, key: Ed25519PrivateKey, *, context: bytes) -> Signature:
    """Sign `content`. The same key and content give the same signature (RFC 8032, 5.1.6)."""
    public = key.public_key().public_bytes_raw()
    return Signature(key_id(public), key.sign(context + content))


def dump_signatures(signatures: Sequence[Signature]) -> bytes:
    """The bytes of `manifest.sig`: sorted by key, so that the same signatures give the same bytes."""
    each = [
        {"key": one.key_id, "ed25519": base64.b64encode(one.value).decode()}
        for one in sorted(signatures, key=lambda one: one.key_id)
    ]
    content = {"schema": SCHEMA, "kind": KIND, "signatures": each}
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def parse_signatures(raw: bytes) -> tuple[Signature, ...]:
    """Read `manifest.sig`.

    Raises:
        SignatureError: it is not as `dump_signatures` writes it.
    """
    try:
        content = json.loads(raw.decode("utf-8"))
        if not isinstance(content, dict) or (content.get("schema"), content.get("kind")) != (SCHEMA, KIND):
            raise ValueError("another schema or kind")
        found = tuple(_signature(one) for one in content["signatures"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unusable(str(error) or type(error).__name__) from error
    if not 1 <= len(found) <= _MAX_SIGNATURES:
        raise _unusable(f"{len(found)} signatures")
    return found


def _signature(one: Any) -> Signature:
    if not isinstance(one, dict) or one.keys() != {"key", "ed25519"}:
        raise ValueError("an entry with other fields than key and ed25519")
    name, text = one["key"], one["ed25519"]
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError("an entry that is no text")
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a signature that is no base64") from error
    if len(value) != 64:
        raise ValueError(f"a signature of {len(value)} bytes")
    return Signature(name, value)


def _unusable(came: str) -> SignatureError:
    return SignatureError(
        "the signature cannot be read",
        expected=f"a {KIND} of schema {SCHEMA} with 1 to {_MAX_SIGNATURES} signatures",
        came=came[:200],
        do="sign again with `cxr-edge bundle sign`",
    )


def require_signature(
    content: bytes, signatures: Sequence[Signature], trusted: Sequence[TrustedKey], *, context: bytes, created: str
) -> TrustedKey:
    """The trusted key that signed `content`; one is enough, so that two keys can overlap while they are exchanged.

    Args:
        content: what was signed.
        signatures: what came with it; may be empty.
        trusted: the keys of this device.
        context: what kind of content it is.
        created: when the signed content says that it was made. A key's time is held against this and not against the
            clock here, which a device without a battery cannot be trusted on; against a stolen key helps `revoked`.

    Raises:
        SignatureError: unsigned, signed by nobody that is trusted, or not over these bytes.
    """
    if not signatures:
        raise SignatureError(
            "it is not signed",
            expected="a signature by a trusted key",
            came="none",
            do=f"sign it with {_HOW[context]}",
        )
    against = []
    for signature in signatures:
        key = next((key for key in trusted if key.id == signature.key_id), None)
        if key is None:
            against.append((f"key {signature.key_id[:40]} is not known here", _UNKNOWN))
        elif objection := _objection(key, signature, content, context=context, created=created):
            against.append(objection)
        else:
            return key
    # What is wrong with a key that is known tells more than a stranger's signature beside it.
    cure = next((cure for _, cure in against if cure != _UNKNOWN), _UNKNOWN)
    raise SignatureError(
        "nobody who is trusted signed it",
        expected="a signature by one of " + (", ".join(f"{key.name} ({key.id})" for key in trusted) or "no key at all"),
        came="; ".join(reason for reason, _ in against),
        do=cure.format(how=_HOW[context]),
    )


_UNKNOWN = "sign it with a key that is trusted ({how}), or add the key's public half to the trusted keys"
_REVOKED = "sign it anew with a key that is trusted ({how}), and bring that: nothing of a revoked key is taken"
_CHANGED = "copy it again from where it was signed, or sign it again ({how})"
_NOT_THEN = "sign it with a key that was valid then ({how}), or change the key's dates in the trusted keys"


def _objection(
    key: TrustedKey, signature: Signature, content: bytes, *, context: bytes, created: str
) -> tuple[str, str] | None:
    """(why this signature does not count, what to do); None where it does."""
    if key.revoked:
        return f"key {key.name} ({key.id}) is revoked", _REVOKED
    if not _verifies(key.public, signature.value, context + content):
        return f"what key {key.name} ({key.id}) signed was changed since", _CHANGED
    if key.valid_from and created < key.valid_from:
        return f"key {key.name} is valid from {key.valid_from}, this was made {created}", _NOT_THEN
    if key.valid_until and created > key.valid_until:
        return f"key {key.name} is valid until {key.valid_until}, this was made {created}", _NOT_THEN
    return None


def _verifies(public: bytes, value: bytes, content: bytes) -> bool:
    # 30 ms, which only a device that checks signatures pays.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(value, content)
    except InvalidSignature:
        return False
    except ValueError as error:
        raise ConfigError(
            "a trusted key is no Ed25519 key",
            expected="32 public bytes on the curve",
            came=str(error),
            do="mend the trusted keys",
        ) from error
    return True
