"""`cxr-edge benchmark` on other machines: files there, table home, nothing left behind."""

from __future__ import annotations

import asyncio
import gzip
import io
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from firmware_bridge.deploy.release import APP, SITE
from firmware_bridge.errors import InputError
from toolkit.deploy.ask import Password
from toolkit.deploy.code import code_layer
from toolkit.deploy.deploy import Reporter, fit_target, upload
from toolkit.deploy.device import at_device
from toolkit.deploy.fleet import Ended, Waves, each
from toolkit.deploy.inventory import Host
from toolkit.deploy.site import build_site
from toolkit.deploy.ssh import Access

_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dcm")
_PIECE_BYTES = 2**18


async def benchmark_hosts(
    hosts: Sequence[Host],
    access: Access,
    password: Password,
    reporter: Reporter,
    *,
    models: Sequence[Path],
    images: Path,
    arguments: Sequence[str],
    limit: int,
) -> list[Ended[Any]]:
    """Run the benchmark on every host; "table" and "report" of each.

    Args:
        hosts: which.
        access: how to get in.
        password: for sudo.
        reporter: hears how far each is.
        models: `.tflite` files.
        images: folder of X-rays.
        arguments: more options of `cxr-edge benchmark`, as they are given there.
        limit: at most so many X-rays are sent, spread over the folder.

    Raises:
        InputError: there is no X-ray in the folder.
    """
    alike = len({model.name for model in models}) < len(models)
    names = [f"{number}-{model.name}" if alike else model.name for number, model in enumerate(models)]
    payload = _pack(dict(zip(names, models, strict=True)), _chosen(images, limit))

    async def one(host: Host) -> Any:
        async with at_device(host, access, password=lambda: password(host)) as device:
            target = fit_target(host, device.facts, now_s=time.time())
            site = await asyncio.to_thread(
                lambda: build_site(machine=target.machine, python=device.facts.python_minor, glibc=target.glibc)
            )
            layers = {SITE: site, APP: code_layer()}
            await device.request("lock")
            for kind, layer in layers.items():
                reporter.step(host.name, f"sending {kind}")
                await upload(device, layer, reporter)
            reporter.step(host.name, "measuring")
            return await device.request(
                "measure",
                payload=_pieces(payload),
                bytes=len(payload),
                layers={kind: layer.hash for kind, layer in layers.items()},
                arguments=list(arguments),
                models=names,
            )

    return await each(hosts, one, Waves(stop_at=1.0))


def _chosen(images: Path, limit: int) -> list[Path]:
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not found:
        raise InputError(
            f"there is no X-ray in {images}",
            expected="JPEG, PNG, TIFF or DICOM files",
            came="none",
            do="mend --images",
        )
    return found[:: max(1, len(found) // limit)][:limit]


def _pack(models: dict[str, Path], images: Sequence[Path]) -> bytes:
    """A tar of models and X-rays. The X-rays get numbers for names: names can be patients'."""
    files = {**models, **{f"images/{n}{path.suffix.lower()}": path for n, path in enumerate(images)}}
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=buffer, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, path in files.items():
            member = tarfile.TarInfo(name)
            member.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(member, content)
    return buffer.getvalue()


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]
