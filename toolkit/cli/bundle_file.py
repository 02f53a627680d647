"""Options and arguments that name a bundle: a file, or `cxr-edge/NAME` for one that comes with the package."""

from __future__ import annotations

from pathlib import Path

import click

from firmware_bridge.errors import ConfigError
from firmware_bridge.shipped import bundle_path, shipped_bundle, shipped_names


class BundleFile(click.Path):
    """A path; `cxr-edge/NAME` becomes the path of the bundle of that name in the package."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path of the bundle that `value` names.

        Raises:
            ConfigError: `cxr-edge/NAME` with a name that does not come with the package.
        """
        return bundle_path(Path(super().convert(value, param, ctx)))  # type: ignore[arg-type]


BUNDLE_FILE = BundleFile()
BUNDLE_HELP = "A .cxr bundle, or cxr-edge/NAME for one that comes with cxr-edge"


def written_to(bundle: Path, out: Path | None) -> Path:
    """Where a changed `bundle` goes: `out`, or its own place unless it belongs to the package.

    Raises:
        ConfigError: it belongs to the package, and no `out`.
    """
    if out is None and bundle in [shipped_bundle(name) for name in shipped_names()]:
        raise ConfigError(
            "a bundle that comes with cxr-edge is not changed in its place",
            expected="--out with a file of your own",
            came="no --out",
            do=f"give it, for example: --out {bundle.name}",
        )
    return out or bundle
