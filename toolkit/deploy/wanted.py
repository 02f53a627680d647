"""What a device shall run: one bundle, the packages for its kind, its own config and unit. No device is asked here."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_bridge.bundle import open_bundle
from firmware_bridge.deploy.layers import Entry, hash_file
from firmware_bridge.deploy.release import (
    APP,
    BUNDLE,
    BUNDLE_FILE,
    PLACE,
    SITE,
    TENSORRT,
    TRUSTED_KEYS,
    Description,
)
from firmware_bridge.deploy.unit import unit_text
from firmware_bridge.errors import BundleError, ConfigError, MissingExtraError
from firmware_bridge.manifest import TFLITE_RUNTIME
from firmware_bridge.settings import load_settings
from firmware_bridge.trust import TrustedKey, parse_trusted_keys
from toolkit.deploy.code import code_layer
from toolkit.deploy.inventory import Host, merge
from toolkit.deploy.layer import Layer
from toolkit.deploy.site import build_site
from toolkit.deploy.targets import Target

CREDENTIALS = "/run/credentials/cxr-edge.service"
MQTT_PASSWORD = "mqtt-password"  # noqa: S105  the name of a credential, not one


@dataclass(frozen=True)
class Parcel:
    """A bundle that may be deployed, and the keys that say so.

    Attributes:
        layer: the bundle as a layer.
        ref: its "name", "id" and "created".
        signed_by: who signed it.
        trusted_keys: the text of the file that the devices get.
    """

    layer: Layer
    ref: Mapping[str, str]
    signed_by: TrustedKey
    trusted_keys: str


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
    return Parcel(Layer({name: entry}, {name: bundle}), ref, key, text)


@dataclass(frozen=True)
class Wanted:
    """All that one device shall have.

    Attributes:
        description: of the release.
        layers: kind -> layer.
        secrets: name -> text.
    """

    description: Description
    layers: Mapping[str, Layer]
    secrets: Mapping[str, str]

    @property
    def secret_hashes(self) -> dict[str, str]:
        """By which a device tells whether it has them already."""
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.secrets.items()}


def wanted_for(
    host: Host,
    target: Target,
    parcel: Parcel,
    *,
    python: str,
    cpus: int,
    systemd: int = 0,
    tensorrt: str = "",
    config: Mapping[str, Any],
) -> Wanted:
    """Put together what a device shall have. Fetches packages where the cache has none for this kind of device.

    Args:
        host: with its own config and secrets.
        target: its kind.
        parcel: the bundle.
        python: the device's, "3.11".
        cpus: how many it has.
        systemd: its version; 0: the oldest that is supported.
        tensorrt: its version, for which engines are then built there; "any": nobody knows; empty: there is none.
        config: tables of the agent's file for all devices; the host's own come on top.

    Raises:
        ConfigError: a setting that the agent does not know, or a secret that cannot be read.
        DeployError: no packages for this kind of device.
    """
    secrets = {name: _secret(name, Path(file)) for name, file in host.secrets.items()}
    settings = _settings(host, merge(config, host.config), secrets=secrets)
    text = _toml(settings)
    _check(text)
    layers = {
        SITE: build_site(machine=target.machine, python=python, glibc=target.glibc),
        APP: code_layer(),
        BUNDLE: parcel.layer,
    }
    # What the proof chooses comes before the file ([agent] precision, threads): here the file may forbid a choice.
    may_use_gpu = settings["agent"].get("runtime") != TFLITE_RUNTIME
    description = Description(
        layers={kind: layer.hash for kind, layer in layers.items()},
        bundle=dict(parcel.ref),
        target=target.name,
        config=text,
        unit=unit_text(
            watch=host.watch,
            secrets=sorted(secrets),
            memory_max_mb=target.memory_max_mb,
            systemd=systemd,
            only_addresses=host.only_addresses or None,
            accelerator=target.accelerator,
        ),
        trusted_keys=parcel.trusted_keys,
        watch=host.watch,
        broker=_broker(settings),
        extra={
            **({"update": True} if settings.get("update", {}).get("enabled") is True else {}),
            # The version, so that an update of TensorRT makes another release, whose engines are built anew.
            **({TENSORRT: tensorrt} if tensorrt and target.accelerator and may_use_gpu else {}),
        },
        threads=tuple(n for n in target.threads if n <= cpus) or (1,),
    )
    return Wanted(description, layers, secrets)


def _secret(name: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"secret {name} cannot be read", expected=f"a text file {file}", came=str(error), do="mend its path"
        ) from error


def _settings(host: Host, config: Mapping[str, Any], *, secrets: Mapping[str, str]) -> dict[str, Any]:
    agent = {
        "watch": host.watch,
        "bundle": f"{PLACE}/{BUNDLE_FILE}",
        "state": "/var/lib/cxr-edge",
        "trusted_keys": f"{PLACE}/{TRUSTED_KEYS}",
    }
    settings = merge(config, {"agent": agent})
    if MQTT_PASSWORD in secrets and settings.get("mqtt", {}).get("url"):
        settings = merge(settings, {"mqtt": {"password_file": f"{CREDENTIALS}/{MQTT_PASSWORD}"}})
    return settings


def _toml(settings: Mapping[str, Any]) -> str:
    try:
        import tomli_w
    except ModuleNotFoundError as error:
        raise MissingExtraError.for_module("tomli_w", "deploy") from error

    text: str = tomli_w.dumps(dict(settings))
    return text


def _check(text: str) -> None:
    """Read it as the agent will: a slip in it is told here, not by a service that does not start."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        load_settings(Path(file.name), environment={})


def _broker(settings: Mapping[str, Any]) -> str:
    """ "host:port" of the broker; empty without one."""
    url = settings.get("mqtt", {}).get("url", "")
    if not url:
        return ""
    from firmware_bridge.mqtt import parse_broker

    broker = parse_broker(url)
    return f"{broker.host}:{broker.port}"
