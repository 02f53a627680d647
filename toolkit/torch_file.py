"""Arrays out of a PyTorch checkpoint of the form before 1.6, without PyTorch and without running what is in it.

Such a file is a row of pickles (magic number, protocol, system, the tensors' description, the storages' keys) followed
by the storages: a count (int64, little endian) and that many numbers each. The description is read by an unpickler that
knows four names and refuses every other, so that a hostile file can do no more than be refused.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from firmware_bridge.errors import ModelError

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Where a tensor lies: storage type and key; offset, shape and strides, counted in numbers."""

    storage: tuple[Any, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def out_of(self, storage: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The tensor; its strides are kept within the storage, whatever the file says."""
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.strides, *self.shape)) < 0 or last >= storage.size:
            raise ValueError("a tensor that goes beyond its storage")
        strides = [step * storage.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides, writeable=False)


def _rebuild(
    storage: tuple[Any, ...], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a file of weights")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def read_torch_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """Every tensor of the file by its name: float32 or int64, in the shapes that PyTorch gives them.

    Raises:
        ModelError: no such file, damaged, of another form, or with anything in it but tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    # What pickle raises for damaged bytes is not bounded by its documentation: "other exceptions may also be raised".
    except Exception as error:
        raise ModelError(
            f"the weights in {path.name} cannot be read",
            expected="a PyTorch checkpoint of tensors, written by PyTorch 1.5 or before",
            came=str(error) or type(error).__name__,
            do="install the package that brings it again",
        ) from error


def _read(file: BinaryIO) -> dict[str, npt.NDArray[Any]]:
    if _Reader(file).load() != _MAGIC:
        raise pickle.UnpicklingError("another magic number")
    for _ in ("protocol", "system"):
        _Reader(file).load()
    tensors: Mapping[str, _Tensor] = _Reader(file).load()
    types = {tensor.storage[2]: tensor.storage[1] for tensor in tensors.values()}
    storages = {}
    for key in _Reader(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        content = file.read(count * types[key].itemsize)
        storages[key] = np.frombuffer(content, types[key], count)
    return {name: tensor.out_of(storages[tensor.storage[2]]) for name, tensor in tensors.items()}
