"""Memory and one stream on an NVIDIA GPU, through cuda-python."""

from __future__ import annotations

import weakref
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import EngineError, MissingExtra

Array = npt.NDArray[np.generic]


class Gpu(msgspec.Struct, frozen=True):
    """A GPU's marketing name and its compute capability, for example ``8.7``."""

    name: str
    compute_capability: str


class Cuda:
    """The first GPU, with one stream of its own.

    Everything allocated is freed by :meth:`close`, or when the object goes, or when Python ends.
    All methods raise EngineError when the CUDA runtime reports an error.
    """

    def __init__(self) -> None:
        """Open the GPU.

        Raises:
            MissingExtra: cuda-python is not installed.
            EngineError: there is no GPU, or the driver is older than cuda-python wants.
        """
        self._cudart = _load_cudart()
        self._allocations: list[int] = []
        self._streams: list[Any] = []
        self._finalizer = weakref.finalize(self, _free, self._cudart, self._allocations, self._streams)
        properties = self._call("cudaGetDeviceProperties", 0)
        self.gpu = Gpu(properties.name.decode(errors="replace"), f"{properties.major}.{properties.minor}")
        self._streams.append(self._call("cudaStreamCreate"))
        self.stream = int(self._streams[0])

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes on the GPU."""
        address = int(self._call("cudaMalloc", size))
        self._allocations.append(address)
        return address

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the GPU, in the stream's order."""
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def download(self, array: Array, address: int) -> None:
        """Fill a contiguous array from the GPU, in the stream's order; valid after :meth:`synchronize`."""
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost")

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""
        self._call("cudaStreamSynchronize", self._streams[0])

    def close(self) -> None:
        """Free the memory and the stream; the object is of no use afterwards."""
        self._finalizer()

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        direction = getattr(self._cudart.cudaMemcpyKind, kind)
        self._call("cudaMemcpyAsync", target, source, size, direction, self._streams[0])

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; each returns its error code first, then its result if it has one."""
        try:
            code, *results = getattr(self._cudart, function)(*arguments)
        except RuntimeError as error:  # cuda-python before 12.6 where there is no driver
            raise EngineError(f"CUDA: {function} failed: {error}") from error
        if code != self._cudart.cudaError_t.cudaSuccess:
            _, text = self._cudart.cudaGetErrorString(code)
            raise EngineError(f"CUDA: {function} failed: {text.decode(errors='replace')}{_hint(code)}")
        return results[0] if results else None


def _load_cudart() -> Any:
    try:
        from cuda.bindings import runtime

        return runtime
    except ImportError:
        pass
    try:
        # cuda-python before 12.6
        from cuda import cudart
    except ImportError as error:
        raise MissingExtra("cuda-python", "tensorrt", "a bundle of the target 'tensorrt'") from error
    return cudart


def _hint(code: Any) -> str:
    if code.name == "cudaErrorInsufficientDriver":
        return " (there is no NVIDIA driver here, or cuda-python is for a newer CUDA than the driver's)"
    return ""


def _free(cudart: Any, allocations: list[int], streams: list[Any]) -> None:
    """What fails here is left alone: the process is ending, or the GPU is lost and its memory with it."""
    while allocations:
        cudart.cudaFree(allocations.pop())
    while streams:
        cudart.cudaStreamDestroy(streams.pop())
