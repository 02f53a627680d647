"""The bundles that come with the package, so that an agent scores with nothing but a folder to watch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from firmware_bridge.errors import ConfigError

PREFIX = "cxr-edge/"
DEFAULT = "kermany"


def shipped_names() -> list[str]:
    """The names of the bundles that come with the package, sorted."""
    folder = Path(str(resources.files("firmware_bridge"))) / "models"
    return sorted(path.stem for path in folder.glob("*.cxr"))


def shipped_bundle(name: str = DEFAULT) -> Path:
    """The file of a bundle that comes with the package.

    Raises:
        ConfigError: there is none of that name.
    """
    known = shipped_names()
    if name not in known:
        raise ConfigError(
            f"no bundle called '{name}' comes with cxr-edge",
            expected=" or ".join(PREFIX + one for one in known) or "a bundle in the installed package's folder models",
            came=PREFIX + name if known else "a package without any: it is not complete",
            do="give one of these, or the path of a bundle of your own"
            if known
            else "install cxr-edge again from a whole clone, or name a bundle of your own with --bundle",
        )
    return Path(str(resources.files("firmware_bridge"))) / "models" / f"{name}.cxr"


def bundle_path(given: Path | None) -> Path:
    """The bundle file that is meant: nothing is the default one of the package, `cxr-edge/NAME` another one.

    Raises:
        ConfigError: `cxr-edge/NAME` with a name that does not come with the package.
    """
    if given is None:
        return shipped_bundle()
    text = given.as_posix()
    # A file of the user's own is never hidden by one of ours.
    if text.startswith(PREFIX) and not given.exists():
        return shipped_bundle(text.removeprefix(PREFIX))
    return given
