"""What a device shall run: one bundle, the packages for its kind, its own config and unit. No device is asked here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy.listing import Entry, hash_file
from firmware_bridge.deploy.release import (
    APP,
    BUNDLE,
    BUNDLE_FILE,
    SITE,
    TENSORRT,
    Description,
)
from firmware_bridge.deploy.unit import unit_text
from firmware_bridge.errors import BundleError, ConfigError
from firmware_bridge.manifest import TFLITE_RUNTIME
from firmware_bridge.trust import TrustedKey, parse_trusted_keys
from toolkit.deploy.code import code_layer
from toolkit.deploy.layer import Layer
from toolkit.deploy.settings import OURS, Prepared
from toolkit.deploy.site import build_site
from toolkit.deploy.targets import Target


@dataclass(frozen=True)
class Parcel:
    """A bundle that may be deployed, and the keys that say so.

    Attributes:
        layer: the bundle as a layer.
        ref: its "name", "id" and "created".
        signed_by: who signed it.
        trusted_keys: the text of the file that the devices get.
        keys: what stands in it.
    """

    layer: Layer
    ref: Mapping[str, str]
    signed_by: TrustedKey
    trusted_keys: str
    keys: tuple[TrustedKey, ...]


def open_parcel(bundle: Path, trusted_keys: Path) -> Parcel:
    """Open a bundle and check that the devices will trust it.

    Raises:
        BundleError: damaged, or without golden X-rays; SignatureError: not signed by one of the keys.
        ConfigError: the trusted keys cannot be used.
    """
    try:
        text = trusted_keys.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the trusted keys {trusted_keys} cannot be read",
            expected="the file whose keys the devices shall trust",
            came=str(error),
            do="mend --trusted-keys; `cxr-edge bundle keygen` prints a key's entry",
        ) from error
    keys = parse_trusted_keys(text.encode(), trusted_keys)
    with open_bundle(bundle, trusted=keys) as opened:
        key, manifest = opened.require_trust(keys), opened.manifest
        ref = {"name": manifest.name, "id": opened.id, "created": manifest.created}
    if not manifest.golden:
        raise BundleError(
            f"bundle '{manifest.name}' has no golden X-rays",
            expected="at least one, by which the device can prove it",
            came="none",
            do="build it again with `cxr-edge bundle build RUN --golden 6`, and sign it",
        )
    entry = Entry(hash_file(bundle), bundle.stat().st_size)
    name = Path(BUNDLE_FILE).name
    return Parcel(Layer({name: entry}, {name: bundle}), ref, key, text, keys)


@dataclass(frozen=True)
class Wanted:
    """All that one device shall have.

    Attributes:
        description: of the release.
        layers: kind -> layer.
        secrets: name -> text.
        told: for people: the settings and keys that will count from then on, all of them.
    """

    description: Description
    layers: Mapping[str, Layer]
    secrets: Mapping[str, str]
    told: tuple[str, ...] = ()

    @property
    def secret_hashes(self) -> dict[str, str]:
        """By which a device tells whether it has them already."""
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.secrets.items()}


def wanted_for(
    prepared: Prepared,
    target: Target,
    parcel: Parcel,
    *,
    python: str,
    cpus: int,
    systemd: int = 0,
    tensorrt: str = "",
    say: Callable[[str], None] = lambda _line: None,
) -> Wanted:
    """Put together what a device shall have. Fetches packages where the cache has none for this kind of device.

    Args:
        prepared: the host with its settings and secrets.
        target: its kind.
        parcel: the bundle.
        python: the device's, "3.11".
        cpus: how many it has.
        systemd: its version; 0: the oldest that is supported.
        tensorrt: its version, for which engines are then built there; "any": nobody knows; empty: there is none.
        say: called with what is fetched.

    Raises:
        DeployError: no packages for this kind of device.
    """
    host, settings = prepared.host, prepared.tables
    layers = {
        SITE: build_site(machine=target.machine, python=python, glibc=target.glibc, say=say),
        APP: code_layer(),
        BUNDLE: parcel.layer,
    }
    description = Description(
        layers={kind: layer.hash for kind, layer in layers.items()},
        bundle=dict(parcel.ref),
        target=target.name,
        config=prepared.text,
        unit=unit_text(
            watch=host.watch,
            secrets=sorted(prepared.secrets),
            memory_max_mb=target.memory_max_mb,
            systemd=systemd,
            only_addresses=host.only_addresses or None,
            accelerator=target.accelerator,
        ),
        trusted_keys=parcel.trusted_keys,
        watch=host.watch,
        broker=prepared.broker,
        extra=_extra(settings, target, tensorrt),
        threads=tuple(n for n in target.threads if n <= cpus) or (1,),
    )
    return Wanted(description, layers, prepared.secrets, (settings_told(prepared), keys_told(parcel.keys)))


def settings_told(prepared: Prepared) -> str:
    """What was not given again is gone with the next release: a broker that is missing here is one that is dropped."""
    given = [name for name, table in prepared.tables.items() if name != "agent" or table.keys() > {"watch", *OURS}]
    defaults = "the agent's defaults, as neither --config nor an inventory says more"
    sections = " ".join(f"[{name}]" for name in sorted(given)) or defaults
    return f"settings: {sections}; {f'broker {prepared.broker}' if prepared.broker else 'no broker'}"


def keys_told(keys: Sequence[TrustedKey]) -> str:
    """The keys that the device trusts from then on."""
    return "trusted keys: " + ", ".join(f"{key.name} ({'revoked' if key.revoked else key.id[:8]})" for key in keys)


def _extra(settings: Mapping[str, Any], target: Target, tensorrt: str) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if settings.get("update", {}).get("enabled") is True:
        extra["update"] = True
    # What the proof chooses comes before the file ([agent] precision, threads): here the file may forbid a choice.
    if tensorrt and target.accelerator and settings["agent"].get("runtime") != TFLITE_RUNTIME:
        extra[TENSORRT] = tensorrt  # the version: an update of TensorRT makes another release, with engines built anew
    return extra
