"""Packages that are each well alone and fail together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolkit.doctor.facts import Facts
from toolkit.doctor.finding import Finding, note, ok, problem

# All of them install the same folder `cv2`; whichever came last wins, and removing one breaks the others.
_OTHER_OPENCVS = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
# 2.0.8 is the last release of albumentations; its successor lives under another name and the AGPL.
_AGPL_ALBUMENTATIONS = ("albumentationsx",)


def check_clashes(facts: Facts) -> Iterator[Finding]:
    """Findings about versions that do not go together."""
    found = [*_numpy(facts), *_opencv(facts), *_keras(facts), *_runtimes(facts), *_licences(facts)]
    yield from found or [ok("versions", "none of the known clashes")]


def _numpy(facts: Facts) -> Iterator[Finding]:
    numpy = facts.packages.get("numpy", "")
    if "tflite-runtime" in facts.packages and _major(numpy) >= 2:
        yield problem(
            "versions",
            f"tflite-runtime was built against NumPy 1 and fails with NumPy {numpy}",
            "pip install 'numpy<2' 'opencv-python-headless<4.12', or pip uninstall tflite-runtime",
        )


def _opencv(facts: Facts) -> Iterator[Finding]:
    others = [name for name in _OTHER_OPENCVS if name in facts.packages]
    if others:
        names = " ".join(others)
        yield problem(
            "versions",
            f"{names} overwrites opencv-python-headless: both install the folder cv2",
            f"pip uninstall -y {names} opencv-python-headless && pip install opencv-python-headless",
        )


def _keras(facts: Facts) -> Iterator[Finding]:
    tensorflow, tf_keras = facts.packages.get("tensorflow"), facts.packages.get("tf-keras")
    if tensorflow is None:
        return
    if tf_keras is not None and _minor(tf_keras) != _minor(tensorflow):
        yield problem(
            "versions",
            f"tf_keras {tf_keras} was made for another TensorFlow than {tensorflow}",
            f"pip install 'tf_keras=={_minor(tensorflow)}.*'",
        )
    if facts.environment.get("TF_USE_LEGACY_KERAS", "1") != "1":
        yield note(
            "versions",
            f"TF_USE_LEGACY_KERAS={facts.environment['TF_USE_LEGACY_KERAS']} asks for Keras 3, which "
            "tensorflow-model-optimization refuses; cxr-edge sets it to 1 for itself, other programs here do not",
            "export TF_USE_LEGACY_KERAS=1",
        )


def _runtimes(facts: Facts) -> Iterator[Finding]:
    if {"tflite-runtime", "ai-edge-litert"} <= facts.packages.keys():
        yield note("versions", "both runtimes are installed; ai-edge-litert is used", "pip uninstall tflite-runtime")


def _licences(facts: Facts) -> Iterator[Finding]:
    for name in _AGPL_ALBUMENTATIONS:
        if name in facts.packages:
            yield problem(
                "licences",
                f"{name} is under the AGPL and installs the same folder as albumentations",
                f"pip uninstall -y {name} albumentations && pip install albumentations==2.0.8",
            )
    if "pylibjpeg-libjpeg" in facts.packages:
        yield note(
            "licences",
            "pylibjpeg-libjpeg is under the GPL-3; cxr-edge does not need it",
            "pip uninstall pylibjpeg-libjpeg",
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _major(version: str) -> int:
    leading = re.match(r"\d+", version)
    return int(leading.group()) if leading else 0
