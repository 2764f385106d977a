"""Extractors from TFLite files, run by LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edge_ad.distill.extractors import ExtractorOptions, file_record
from edge_ad.distill.features import Features, InputRange, input_batch, is_grid, read_features
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.types import Image

# A MobileNetV2's expansions at 1/8 (192 channels) and 1/16 (576 channels).
_MOBILENET_V2 = ("expanded_conv_7/expand/", "expanded_conv_13/expand/")
_DTYPES = (np.float32, np.uint8, np.int8)


class TfliteExtractor:
    """A TFLite graph with one image input; taps inner tensors or its outputs, dequantized.

    ``layers`` are tensors' names or parts of them. Without, a MobileNetV2's known layers are tapped where
    the graph has them, else its outputs. An integer input gets the pixels as they are, unless a range is
    given: then the values are quantized as the file says.
    """

    def __init__(self, path: Path, options: ExtractorOptions) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise MissingExtra("ai-edge-litert", "tflite", "a .tflite extractor") from error
        self.name = path.name
        try:
            self._interpreter: Any = Interpreter(
                str(path),
                experimental_preserve_all_tensors=True,
                # A delegate would keep the inner tensors to itself.
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                num_threads=torch.get_num_threads(),
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not a readable TFLite file ({error})") from error
        inputs = self._interpreter.get_input_details()
        self._entry: dict[str, Any] = inputs[0]
        self._channels_last = self._check_input(inputs)
        self._values = self._input_range(options)
        self._layers = options.layers
        if not self._layers:
            names = [d["name"] for d in self._interpreter.get_tensor_details()]
            if all(any(tap in name for name in names) for tap in _MOBILENET_V2):
                self._layers = _MOBILENET_V2
        self._shape: tuple[int, int] = (0, 0)
        self._taps: list[dict[str, Any]] = []
        self.record = file_record(path, options, self._values)

    def __call__(self, images: Sequence[Image]) -> Features:
        height, width = images[0].shape[:2]
        self._resize(height, width)
        parts: list[list[torch.Tensor]] = [[] for _ in self._taps]
        for image in images:
            self._interpreter.set_tensor(self._entry["index"], self._input(image))
            self._interpreter.invoke()
            for part, tap in zip(parts, self._taps, strict=True):
                part.append(torch.from_numpy(_dequantized(self._interpreter.get_tensor(tap["index"]), tap)))
        outputs = [(tap["name"], torch.cat(part)) for tap, part in zip(self._taps, parts, strict=True)]
        return read_features(outputs, height, width, self._channels_last)

    def _check_input(self, inputs: list[dict[str, Any]]) -> bool:
        """Whether the one input has its channels last."""
        shape = list(inputs[0]["shape"])
        if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise InputError(
                f"{self.name}: must have one input, an image with three channels; it has {shape}"
            )
        if inputs[0]["dtype"] not in _DTYPES:
            raise InputError(
                f"{self.name}: its input is {inputs[0]['dtype'].__name__}; float32, uint8 or int8"
            )
        return bool(shape[3] == 3)

    def _input_range(self, options: ExtractorOptions) -> InputRange:
        if options.values is None and self._entry["dtype"] is np.float32:
            raise InputError(
                f"{self.name}: takes float32; say which values it wants with --extractor-input (imagenet, 0..1, …)"
            )
        return options.values or "uint8"

    def _input(self, image: Image) -> npt.NDArray[Any]:
        dtype, (scale, zero) = self._entry["dtype"], self._entry["quantization"]
        if dtype is np.float32:
            batch: npt.NDArray[Any] = input_batch([image], self._values).numpy()
            return batch.transpose(0, 2, 3, 1) if self._channels_last else batch
        if self._values == "uint8" or not scale:
            whole = image[None].astype(np.int16) - (128 if dtype is np.int8 else 0)
        else:
            real = input_batch([image], self._values).numpy().transpose(0, 2, 3, 1)
            whole = np.rint(real / scale) + zero
        limits = np.iinfo(dtype)
        batch = whole.clip(limits.min, limits.max).astype(dtype)
        return batch if self._channels_last else batch.transpose(0, 3, 1, 2)

    def _resize(self, height: int, width: int) -> None:
        if (height, width) == self._shape:
            return
        shape = [1, height, width, 3] if self._channels_last else [1, 3, height, width]
        try:
            self._interpreter.resize_tensor_input(self._entry["index"], shape)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            fixed = "x".join(map(str, self._entry["shape"]))
            raise InputError(
                f"{self.name}: was made for an input of {fixed} and does not take {width}x{height} px ({error}); "
                "choose a --view-size of half its side"
            ) from error
        # The first run of shapes that depend on data fills them in.
        self._interpreter.invoke()
        details = self._interpreter.get_tensor_details()
        self._taps = [self._find(name, details, height, width) for name in self._layers]
        if not self._layers:
            self._taps = self._interpreter.get_output_details()
        self._shape = (height, width)

    def _find(self, layer: str, details: list[dict[str, Any]], height: int, width: int) -> dict[str, Any]:
        """The last feature map whose name contains ``layer``, or is exactly that."""
        maps = [d for d in details if _is_map(d["shape"], height, width)]
        found = [d for d in maps if d["name"] == layer] or [d for d in maps if layer in d["name"]]
        if not found:
            raise InputError(f"{self.name}: has no feature map named '{layer}'")
        return found[-1]


def _is_map(shape: npt.NDArray[np.int32], height: int, width: int) -> bool:
    if len(shape) != 4 or shape[0] != 1:
        return False
    _, first, second, third = map(int, shape)
    return is_grid(second, third, height, width) or is_grid(first, second, height, width)


def _dequantized(raw: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[np.float32]:
    scale, zero = tensor["quantization"]
    values: npt.NDArray[np.float32] = raw.astype(np.float32)
    return (values - zero) * np.float32(scale) if scale else values
