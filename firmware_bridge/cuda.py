"""The few calls of the CUDA driver that running an engine takes, without a package: libcuda.so.1 is the driver's own.

CUDA Driver API: cuInit, cuDevice*, cuDevicePrimaryCtx*, cuMem*, cuStream*. TensorRT works in the primary context,
which is why that one is used. Never run on a Jetson.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import MissingExtraError, ModelError

_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class Cuda:
    """The first GPU of this machine, its primary context and one stream.

    Raises:
        MissingExtraError: no CUDA driver, or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
            self._call("cuInit", 0)
            self._device = ctypes.c_int()
            self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        except (OSError, ModelError) as error:
            raise MissingExtraError(
                "there is no GPU that CUDA can use",
                expected=f"an NVIDIA GPU, its driver ({_LIBRARY}) and the right to use them (groups video and render)",
                came=error.came if isinstance(error, ModelError) else str(error),
                do='run on the CPU ([agent] runtime = "tflite")',
            ) from error
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.enter()
        self._stream = ctypes.c_void_p()
        # Flag 0: ordered with the copies below, which go through the default stream.
        self._call("cuStreamCreate", ctypes.byref(self._stream), 0)

    @property
    def name(self) -> str:
        """The GPU's name and compute capability: "Orin 8.7"."""
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", text, _NAME_BYTES, self._device)
        found = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            found.append(value.value)
        return f"{text.value.decode('utf-8', 'replace')} {found[0]}.{found[1]}"

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.value or 0)

    def enter(self) -> None:
        """Make the context this thread's: every thread that calls must."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size_bytes: int) -> int:
        """Memory of the GPU: its address. It lives as long as the process."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """From a contiguous array to the GPU."""
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), array.ctypes.data_as(ctypes.c_void_p), _size(array))

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """From the GPU into a contiguous array."""
        self._call("cuMemcpyDtoH_v2", array.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(address), _size(array))

    def wait(self) -> None:
        """Until the stream has done everything."""
        self._call("cuStreamSynchronize", self._stream)

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise ModelError(
                "the GPU failed",
                expected=f"{function} to succeed",
                came=f"CUDA error {code}: {(text.value or b'unknown').decode('utf-8', 'replace')}",
                do="look into the system's log (dmesg); the CPU scores meanwhile",
            )


def _size(array: NDArray[np.generic]) -> ctypes.c_size_t:
    assert array.flags.c_contiguous
    return ctypes.c_size_t(array.nbytes)
