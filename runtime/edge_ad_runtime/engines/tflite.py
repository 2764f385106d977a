"""LiteRT, or the older tflite-runtime, on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from edge_ad_runtime.cores import usable_cores
from edge_ad_runtime.engines.base import RawMaps
from edge_ad_runtime.engines.options import EngineOptions
from edge_ad_runtime.errors import BundleError, MissingExtra
from edge_ad_runtime.types import Image


class TfliteEngine:
    """Runs a fused ``.tflite`` graph (float or INT8) with the XNNPACK kernels where they cover an operator.

    Input ``image``, ``uint8 1xHxWx3``; outputs ``map_st`` and ``map_ae``, ``float32 1xhxw``. The image is copied into
    the interpreter's own memory, the only place where it reads one (4 us for 256x256 px). Not for use by two threads at
    once.
    """

    def __init__(self, model: bytes, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        interpreter, self.name = _interpreter()
        # The older runtime does not know the name.
        more = (
            {"experimental_default_delegate_latest_features": True} if options.tflite.latest_kernels else {}
        )
        try:
            self._interpreter: Any = interpreter(
                model_content=model, num_threads=options.threads or len(usable_cores()), **more
            )
            self._interpreter.allocate_tensors()
        except SystemError as error:
            # tflite-runtime was built for numpy 1; under numpy 2 its wrapper fails like this whatever the model.
            raise BundleError(
                f"{self.name} does not work with numpy {np.__version__}: pip install 'numpy<2', or use ai-edge-litert"
            ) from error
        except (ValueError, RuntimeError, TypeError) as error:
            raise BundleError(f"{self.name} refuses the model: {error}") from error
        self._image = _index(self._interpreter.get_input_details(), "image", np.uint8)
        outputs = self._interpreter.get_output_details()
        self._maps = [_index(outputs, name, np.float32) for name in ("map_st", "map_ae")]

    def run(self, batch: Image) -> RawMaps:
        self._interpreter.set_tensor(self._image, batch)
        self._interpreter.invoke()
        # get_tensor copies: the maps stay as they are when the next image runs.
        map_st, map_ae = (self._interpreter.get_tensor(i)[0] for i in self._maps)
        return RawMaps(map_st, map_ae)


def engine_name() -> str:
    """The engine with its version.

    Raises:
        MissingExtra: neither package is installed.
    """
    return _interpreter()[1]


def _interpreter() -> tuple[Any, str]:
    """The interpreter's class and what to call it."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, f"LiteRT {version('ai-edge-litert')}"
    except ImportError:
        pass
    try:
        from tflite_runtime.interpreter import Interpreter

        return Interpreter, f"tflite-runtime {version('tflite-runtime')}"
    except ImportError as error:
        raise MissingExtra(
            "ai-edge-litert",
            "tflite",
            "a bundle of the target 'tflite' (or, where numpy is below 2, the extra 'tflite-runtime')",
        ) from error


def _index(details: list[dict[str, Any]], name: str, dtype: type[np.generic]) -> int:
    for tensor in details:
        if tensor["name"] == name and tensor["dtype"] is dtype:
            return int(tensor["index"])
    raise BundleError(
        f"the model has no tensor '{name}' of {dtype.__name__} among its inputs and outputs; convert it again"
    )
