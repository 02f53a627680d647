"""Which Python package belongs to which extra of `cxr-edge`, read from the installed distribution itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping

from firmware_bridge.errors import MissingExtraError

DISTRIBUTION = "cxr-edge"

# Import names that differ from the distribution's name (dashes and underscores aside).
_DISTRIBUTION_OF_MODULE = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "gdcm": "python-gdcm",
    "jpeg_ls": "pyjpegls",
    "paho": "paho-mqtt",
    "sklearn": "scikit-learn",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
}
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9._-]+)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def canonical(name: str) -> str:
    """A distribution's name in the one spelling that compares (PEP 503): `tf_keras` and `tf-keras` are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(distribution: str = DISTRIBUTION) -> Mapping[str, tuple[str, ...]]:
    """The packages that each extra asks for; the base requirements stand under the empty name.

    Requirements that hold for some Pythons or platforms only are left out: whether they are needed here is for the
    installer to say.

    Raises:
        importlib.metadata.PackageNotFoundError: the distribution is not installed.
    """
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires(distribution) or ():
        name = _REQUIREMENT.match(line)
        extra = _EXTRA.search(line)
        conditional = "python_version" in line or "sys_platform" in line
        if name and not conditional:
            found.setdefault(extra.group(1) if extra else "", []).append(canonical(name.group(1)))
    return {extra: tuple(names) for extra, names in found.items()}


def extra_of_module(module: str) -> str | None:
    """The extra that brings the import name `module`, or None where no extra does (or the base already does)."""
    top = module.partition(".")[0]
    wanted = canonical(_DISTRIBUTION_OF_MODULE.get(top, top))
    try:
        extras = requirements()
    except importlib.metadata.PackageNotFoundError:
        return None
    if wanted in extras.get("", ()):
        return None
    return next((extra for extra, names in extras.items() if wanted in names), None)


def require_modules(*modules: str, extra: str) -> None:
    """Find out, without an import, that `modules` are there: before hours of work rather than after them.

    Raises:
        MissingExtraError: one is not; `extra` brings it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError.for_module(module, extra)
