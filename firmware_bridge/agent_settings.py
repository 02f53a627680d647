"""The section [agent]: what every agent needs, whatever else is on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from firmware_bridge.settings import setting


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """See each key's help."""

    SECTION: ClassVar[str] = "agent"
    watch: Path | None = setting(None, "The folder.", environment="CXR_EDGE_WATCH")
    bundle: Path | None = setting(
        None,
        "The bundle: a .cxr file, or cxr-edge/NAME for one that comes with cxr-edge. Default: cxr-edge/kermany.",
        environment="CXR_EDGE_BUNDLE",
    )
    state: Path | None = setting(
        None,
        "Folder for journal and device key, on a local disk. Default: one for each watched folder, in your home.",
        environment="CXR_EDGE_STATE",
    )
    device: str = setting("", "Name in topics. Default: from the device key.", environment="CXR_EDGE_DEVICE")
    threads: int = setting(1, "Of the interpreter.", least=1, most=64)
    precision: str = setting(
        "", 'The model file: "int8" or "fp16". Default: the bundle\'s first.', choices=("", "int8", "fp16")
    )
    runtime: str = setting(
        "tflite",
        'What runs the model: "tflite", or "onnxruntime" or "tensorrt" where the bundle has its ONNX form. '
        "Where that gives other results than the bundle's, tflite does.",
        choices=("tflite", "onnxruntime", "tensorrt"),
    )
    engines: Path | None = setting(None, "Folder of TensorRT engines that a deployment built here.")
    trusted_keys: Path | None = setting(
        None,
        "File of trusted keys, one of which must have signed the bundle. Default: nobody asks.",
        environment="CXR_EDGE_TRUSTED_KEYS",
    )
    names: bool = setting(False, "File names in records and log. They can hold patients' names.")
    flush_s: float = setting(
        30.0, "With --once: seconds to wait at the end for the broker to take what is unsent.", least=0
    )
