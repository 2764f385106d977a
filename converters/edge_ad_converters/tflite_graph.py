"""The operators of TensorFlow Lite that a fused graph needs, channels last, each float or INT8.

Operator versions are the lowest that know the types used, so that old runtimes load the file (source: the
table in TensorFlow's ``lite/tools/versioning/op_version.cc``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_ad_converters.tflite_file import Operator, Quantization, Tensor, write_file

_SAME, _VALID = 0, 1
_NO_ACTIVATION, _RELU = 0, 1
# The INT8 average's weight: exact in every kernel's fixed-point arithmetic, as is its scale, a power of two.
_POOL_WEIGHT = 64

# More inputs than these XNNPACK leaves to a slower kernel.
_MAX_CONCATENATED = 4

Margins = tuple[int, int, int, int]
"""Pixels at the top, bottom, left and right."""


class TfliteGraph:
    """Grows operator by operator; each method takes indices of tensors and returns that of its result.

    Where a result is given as a tensor, ``out``, its type is that of the operator: float or INT8. Of the latter
    only convolutions and averages may change the quantization; :meth:`quantize` does for the others.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []

    def serialize(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file's content."""
        return write_file(self.tensors, self.operators, inputs, outputs)

    def add(self, tensor: Tensor) -> int:
        """A tensor without an operator: an input of the graph."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(
        self, name: str, data: npt.NDArray[np.generic], quantization: Quantization | None = None
    ) -> int:
        """A constant tensor."""
        return self.add(Tensor(name, data.shape, data.dtype, quantization, np.ascontiguousarray(data)))

    def convolution(
        self,
        source: int,
        weight: int,
        bias: int,
        stride: tuple[int, int],
        same: bool,
        relu: bool,
        out: Tensor,
    ) -> int:
        """CONV_2D; ``weight`` is OHWI, ``same`` as :func:`is_same` finds it, else without padding."""
        values = {
            "padding": _SAME if same else _VALID,
            "strideH": stride[0],
            "strideW": stride[1],
            "fusedActivationFunction": _RELU if relu else _NO_ACTIVATION,
        }
        version = 3 if out.dtype == np.int8 else 1
        return self._operator("CONV_2D", version, (source, weight, bias), out, "Conv2DOptions", values)

    def average_pool(self, source: int, size: tuple[int, int], stride: tuple[int, int], out: Tensor) -> int:
        """The mean of each window, without padding.

        In INT8 it is a depthwise convolution with one weight throughout, which XNNPACK runs: 0.33 ms for
        252x252x32 where AVERAGE_POOL_2D's INT8 kernel takes 6.0 ms, and ties go to the even neighbour, as in
        onnxruntime, where that kernel takes those below the zero of int8 down.
        """
        values = {"padding": _VALID, "strideH": stride[0], "strideW": stride[1]}
        if out.dtype != np.int8:
            values |= {"filterHeight": size[0], "filterWidth": size[1]}
            return self._operator("AVERAGE_POOL_2D", 1, (source,), out, "Pool2DOptions", values)
        channels = out.shape[3]
        scale = np.full(channels, 1 / (_POOL_WEIGHT * size[0] * size[1]), np.float32)
        zeros = np.zeros(channels, np.int64)
        weight = self.constant(
            f"{out.name}.weight",
            np.full((1, *size, channels), _POOL_WEIGHT, np.int8),
            Quantization(scale, zeros, axis=3),
        )
        source_scale = _quantization(self.tensors[source]).scale
        bias = self.constant(
            f"{out.name}.bias",
            np.zeros(channels, np.int32),
            Quantization((scale * source_scale).astype(np.float32), zeros),
        )
        values["depthMultiplier"] = 1
        inputs = (source, weight, bias)
        return self._operator("DEPTHWISE_CONV_2D", 3, inputs, out, "DepthwiseConv2DOptions", values)

    def pad(self, source: int, margins: Margins, name: str) -> int:
        """PAD with zeros; in INT8 with the zero point."""
        top, bottom, left, right = margins
        tensor = self.tensors[source]
        n, height, width, channels = tensor.shape
        out = replace(tensor, name=name, shape=(n, height + top + bottom, width + left + right, channels))
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = (source, self.constant(f"{name}.margins", amounts))
        return self._operator("PAD", 2 if out.dtype == np.int8 else 1, inputs, out, "PadOptions")

    def pad_edge(self, source: int, margins: Margins, name: str) -> int:
        """Repeat the border: first and last row, then column, put beside the rest.

        MIRROR_PAD could do it, one pixel at a time; it took 0.85 ms for 56x56x32, this a hundredth of that,
        and XNNPACK runs it.
        """
        for axis, (before, after) in enumerate((margins[:2], margins[2:]), start=1):
            tensor = self.tensors[source]
            label = f"{name}.rows" if axis == 1 and any(margins[2:]) else name
            parts = [source]
            for count, index, side in ((before, 0, "first"), (after, tensor.shape[axis] - 1, "last")):
                if count:
                    begin = [index if i == axis else 0 for i in range(4)]
                    border = replace(tensor, name=f"{label}.{side}", shape=_resized(tensor.shape, axis, 1))
                    line = self.slice(source, begin, border)
                    parts = [line] * count + parts if side == "first" else parts + [line] * count
            if len(parts) > 1:
                shape = _resized(tensor.shape, axis, tensor.shape[axis] + before + after)
                source = self.concatenation(parts, axis, replace(tensor, name=label, shape=shape))
        return source

    def resize(self, source: int, out: Tensor) -> int:
        """RESIZE_BILINEAR to the size of ``out``, half-pixel centres."""
        size = self.constant(f"{out.name}.size", np.array(out.shape[1:3], np.int32))
        values = {"halfPixelCenters": True}
        return self._operator("RESIZE_BILINEAR", 3, (source, size), out, "ResizeBilinearOptions", values)

    def concatenation(self, sources: Sequence[int], axis: int, out: Tensor) -> int:
        """CONCATENATION, of more than four in steps; all sources have the quantization of ``out``."""
        parts = list(sources)
        while len(parts) > _MAX_CONCATENATED:
            groups = [parts[i : i + _MAX_CONCATENATED] for i in range(0, len(parts), _MAX_CONCATENATED)]
            parts = [g[0] if len(g) == 1 else self._joined(g, axis, out) for g in groups]
        version = 2 if out.dtype == np.int8 else 1
        return self._operator(
            "CONCATENATION", version, tuple(parts), out, "ConcatenationOptions", {"axis": axis}
        )

    def slice(self, source: int, begin: Sequence[int], out: Tensor) -> int:
        """SLICE of the shape of ``out`` from ``begin``."""
        first = self.constant(f"{out.name}.begin", np.array(begin, np.int32))
        size = self.constant(f"{out.name}.size", np.array(out.shape, np.int32))
        version = 2 if out.dtype == np.int8 else 1
        return self._operator("SLICE", version, (source, first, size), out, "SliceOptions")

    def quantize(self, source: int, out: Tensor) -> int:
        """QUANTIZE float, or integers of another quantization, to ``out``."""
        version = 1 if self.tensors[source].dtype == np.float32 else 2
        return self._operator("QUANTIZE", version, (source,), out, "QuantizeOptions")

    def dequantize(self, source: int, name: str) -> int:
        """DEQUANTIZE to float."""
        tensor = self.tensors[source]
        version = 2 if tensor.dtype == np.int8 else 1
        out = Tensor(name, tensor.shape, np.dtype(np.float32))
        return self._operator("DEQUANTIZE", version, (source,), out, "DequantizeOptions")

    def square(self, source: int, out: Tensor) -> int:
        """MUL of a float tensor with itself."""
        return self._operator("MUL", 1, (source, source), out, "MulOptions")

    def mean_channels(self, source: int, out: Tensor) -> int:
        """MEAN of a float tensor over its channels."""
        axes = self.constant(f"{out.name}.axes", np.array([3], np.int32))
        return self._operator("MEAN", 1, (source, axes), out, "ReducerOptions", {"keepDims": False})

    def _joined(self, sources: Sequence[int], axis: int, out: Tensor) -> int:
        total = sum(self.tensors[i].shape[axis] for i in sources)
        name = f"{out.name}.from.{self.tensors[sources[0]].name}"
        return self.concatenation(
            sources, axis, replace(out, name=name, shape=_resized(out.shape, axis, total))
        )

    def _operator(
        self,
        code: str,
        version: int,
        inputs: tuple[int, ...],
        out: Tensor,
        options: str,
        values: Mapping[str, int] | None = None,
    ) -> int:
        result = self.add(out)
        self.operators.append(Operator(code, version, inputs, (result,), options, values or {}))
        return result


def is_same(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], margins: Margins
) -> bool:
    """Whether these margins are what TensorFlow's padding SAME adds to an input of this size.

    It makes the output ``ceil(size / stride)`` and puts an odd pixel at the bottom and right.
    """
    for axis in range(2):
        out = -(-size[axis] // stride[axis])
        total = max((out - 1) * stride[axis] + kernel[axis] - size[axis], 0)
        if margins[2 * axis : 2 * axis + 2] != (total // 2, total - total // 2):
            return False
    return True


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _quantization(tensor: Tensor) -> Quantization:
    assert tensor.quantization is not None
    return tensor.quantization
