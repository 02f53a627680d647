"""The lung network that comes with the package, and the copy of it that a run keeps."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from firmware_bridge.errors import ModelError
from firmware_bridge.lungs import LungFinder
from toolkit.files import write_atomically
from toolkit.quiet import quiet

FILE = "lungs.int8.tflite"


def packaged_lungs() -> bytes:
    """The int8 file that `cxr-edge train-lungs` wrote, as it ships (docs/lungs.md has its figures)."""
    return resources.files("toolkit").joinpath("assets", FILE).read_bytes()


def run_finder(folder: Path) -> LungFinder:
    """The lung network of the run in `folder`.

    A run that has begun keeps the network that it began with, whatever a newer package brings.

    Raises:
        ModelError: the run's file is damaged.
        ResourceError: it cannot be written.
    """
    file = folder / "models" / FILE
    if not file.is_file():
        write_atomically(file, packaged_lungs())
    with quiet():  # the first interpreter of a process says that it made a delegate
        return LungFinder(read_lungs(file))


def read_lungs(file: Path) -> bytes:
    """The bytes of a lung network.

    Raises:
        ModelError: there is none.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the lung network {file} cannot be read",
            expected=f"the {FILE} that the model was trained with: its preprocessing cuts to the lungs",
            came=error.strerror or str(error),
            do="copy it beside the model, from models/ of the run that made it",
        ) from error
