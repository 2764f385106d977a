"""The target ``tflite``: the fused ONNX graph, float or QDQ, as a ``.tflite`` file.

Channels first becomes channels last. A convolution whose input, weights and result all have a quantization
in the QDQ graph becomes one INT8 operator with its ReLU, and its Q/DQ pairs the quantization parameters
of its tensors; so do the operators that only move values. All others stay float, with QUANTIZE and
DEQUANTIZE where the two meet. uint8 with a zero point becomes int8: 128 less in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from edge_ad_converters.tflite_file import Quantization, Tensor
from edge_ad_converters.tflite_graph import Margins, TfliteGraph, is_same
from edge_ad_converters.tflite_source import Source, scalar, unknown
from edge_ad_runtime.errors import InputError

_FLOAT, _INT8, _UINT8 = np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8)
_SIGN = 128
_TO_CHANNELS_FIRST = [0, 3, 1, 2]
# Where each axis of a channels-first tensor stands in a channels-last one.
_AXIS_LAST = (0, 3, 1, 2)
# Allowed relative distance of a bias's scale from that of input times weight, which kernels take it to have.
_BIAS_SCALE_TOLERANCE = 1e-5
_WINDOW = {"auto_pad": b"NOTSET", "dilations": [1, 1]}


def write_tflite(model: onnx.ModelProto) -> bytes:
    """The ``.tflite`` file of a fused graph.

    Args:
        model: of :func:`edge_ad_converters.onnx_float.export_onnx` or
            :func:`edge_ad_converters.onnx_qdq.quantize_onnx`: ``uint8 1xHxWx3`` in, ``float32 1xhxw`` out, all
            shapes known. Names and order of inputs and outputs are kept.

    Returns:
        The same bytes for the same model.

    Raises:
        InputError: the graph holds an operator, attribute or quantization that fused graphs do not have.
        MissingExtra: LiteRT or flatbuffers is not installed.
    """
    return _Writer(model).run()


@dataclass(frozen=True)
class _Value:
    """An ONNX tensor in the file.

    ``dequantized``: the ONNX tensor is float, the stored one holds the integers that it was made of.
    ``channels_first``: of the ONNX tensor; the stored one never is.
    """

    tensor: int
    channels_first: bool = True
    dequantized: bool = False


@dataclass(frozen=True)
class _Weights:
    """A constant that the graph dequantizes: ``real = scale * integers``, a scale for each index of axis 0."""

    integers: npt.NDArray[np.signedinteger]
    scale: npt.NDArray[np.float32]

    def real(self) -> npt.NDArray[np.float32]:
        scale = self.scale.reshape(-1, *[1] * (self.integers.ndim - 1))
        return (self.integers * scale).astype(np.float32)

    def quantization(self) -> Quantization:
        return Quantization(self.scale, np.zeros(len(self.scale), np.int64))


@dataclass(frozen=True)
class _Fused:
    """What follows a node and becomes part of its operator: a ReLU, a QuantizeLinear or none."""

    result: str
    relu: onnx.NodeProto | None
    quantize: onnx.NodeProto | None


class _Writer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.source = Source(model)
        self.graph = TfliteGraph()
        self.values: dict[str, _Value] = {}
        self.weights: dict[str, _Weights] = {}
        self.done: set[str] = set()
        self.conversions: dict[tuple[int, float | None, int], int] = {}

    def run(self) -> bytes:
        handlers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "AveragePool": self._average_pool, "Cast": self._cast, "Concat": self._concat, "Conv": self._conv,
            "DequantizeLinear": self._dequantize, "Mul": self._square, "Pad": self._pad,
            "QuantizeLinear": self._quantize, "ReduceMean": self._mean, "Resize": self._resize,
            "Slice": self._slice, "Transpose": self._transpose,
        }  # fmt: skip
        inputs = [self._input(i) for i in self.source.graph.input]
        for node in self.source.graph.node:
            if node.output[0] in self.done:
                continue
            if node.domain not in ("", "ai.onnx") or node.op_type not in handlers:
                raise unknown(node, "the operator is unknown here")
            handlers[node.op_type](node)
        return self.graph.serialize(inputs, [self._output(name) for name in self.source.outputs])

    def _input(self, value: onnx.ValueInfoProto) -> int:
        if value.type.tensor_type.elem_type != TensorProto.UINT8:
            raise InputError(f"the graph's input '{value.name}' is not an image: it is not uint8")
        shape = self.source.shape(value.name)
        tensor = self.graph.add(Tensor(value.name, shape, _UINT8, _quantization(1.0, 0)))
        self.values[value.name] = _Value(tensor, channels_first=False)
        return tensor

    def _output(self, name: str) -> int:
        value = self.values.get(name)
        if value is None or self._dtype(value) != _FLOAT:
            raise InputError(f"the graph's output '{name}' is not the result of a float operator")
        return value.tensor

    # Quantization

    def _cast(self, node: onnx.NodeProto) -> None:
        self.source.attributes(node, {"to": 0, "saturate": 1}, {"to": TensorProto.FLOAT})
        self._undo(node, 1.0, np.uint8(0))

    def _dequantize(self, node: onnx.NodeProto) -> None:
        name, scale_name, zero_name = self.source.inputs(node, 3, 3)
        scale = self.source.constant(node, scale_name)
        zero = self.source.constant(node, zero_name)
        attributes = self.source.attributes(node, {"axis": 1, "block_size": 0}, {"block_size": 0})
        if not self.source.is_constant(name):
            self._undo(node, float(scalar(node, scale)), scalar(node, zero))
            return
        integers = self.source.constant(node, name)
        symmetric = integers.dtype in (np.int8, np.int32) and not zero.any()
        if not symmetric or attributes["axis"] != 0 or scale.shape != integers.shape[:1]:
            raise unknown(
                node, "constants must be int8 or int32, symmetric, with a scale for each output channel"
            )
        self.weights[node.output[0]] = _Weights(integers, scale.astype(np.float32))

    def _undo(self, node: onnx.NodeProto, scale: float, zero: np.generic) -> None:
        """The node's result is the real value of a stored integer tensor of this quantization."""
        source = self._value(node, node.input[0])
        dtype, quantization = self._dtype(source), self.graph.tensors[source.tensor].quantization
        stored_zero = int(zero) if dtype == zero.dtype else _signed(node, zero)
        if (
            dtype == _FLOAT
            or source.dequantized
            or not _equal(quantization, _quantization(scale, stored_zero))
        ):
            raise unknown(node, "it does not undo the quantization of its input")
        self.values[node.output[0]] = _Value(source.tensor, source.channels_first, dequantized=True)

    def _quantize(self, node: onnx.NodeProto) -> None:
        """Where float meets integers; other QuantizeLinear nodes are part of the operator before them."""
        source = self._value(node, node.input[0])
        tensor = self._real(node, node.input[0])
        out = self._integer_tensor(node, node.input[0])
        self.values[node.output[0]] = _Value(self.graph.quantize(tensor, out), source.channels_first)

    def _integer_tensor(self, quantize: onnx.NodeProto, real: str) -> Tensor:
        """The INT8 tensor of a QuantizeLinear node's result; ``real`` is the tensor that it rounds."""
        self.source.attributes(quantize, {"axis": 1, "block_size": 0, "output_dtype": 0, "saturate": 1, "precision": 0},
                               {"block_size": 0, "output_dtype": 0, "precision": 0})  # fmt: skip
        _, scale_name, zero_name = self.source.inputs(quantize, 3, 3)
        scale = float(scalar(quantize, self.source.constant(quantize, scale_name)))
        zero = _signed(quantize, scalar(quantize, self.source.constant(quantize, zero_name)))
        return Tensor(f"{real}.int8", self._shape_last(real), _INT8, _quantization(scale, zero))

    # Operators

    def _transpose(self, node: onnx.NodeProto) -> None:
        self.source.attributes(node, {"perm": []}, {"perm": _TO_CHANNELS_FIRST})
        source = self._value(node, node.input[0])
        if source.channels_first or self._dtype(source) != _UINT8 or source.dequantized:
            raise unknown(node, "only the image is transposed, to channels first")
        self.values[node.output[0]] = _Value(source.tensor)

    def _conv(self, node: onnx.NodeProto) -> None:
        source, weight_name, bias_name = self.source.inputs(node, 3, 3)
        self._channels_first(node)
        defaults = {"kernel_shape": [], "pads": [0] * 4, "strides": [1, 1], "group": 1, **_WINDOW}
        attributes = self.source.attributes(node, defaults, {"group": 1, **_WINDOW})
        fused = self._fused(node, relu=True)
        weight, bias = self.weights.get(weight_name), self.weights.get(bias_name)
        label = fused.result
        if (
            fused.quantize is not None
            and self._is_integer(source)
            and weight is not None
            and bias is not None
        ):
            out = self._integer_tensor(fused.quantize, fused.result)
            x = self._integer(source)
            self._check_bias(node, x, weight, bias)
            w = self.graph.constant(weight_name, weight.integers.transpose(0, 2, 3, 1), weight.quantization())
            b = self.graph.constant(bias_name, bias.integers, bias.quantization())
        else:
            fused = _Fused(fused.result, fused.relu, None)
            out = Tensor(label, self._shape_last(label), _FLOAT)
            x = self._real(node, source)
            w = self.graph.constant(weight_name, self._real_constant(node, weight_name).transpose(0, 2, 3, 1))
            b = self.graph.constant(bias_name, self._real_constant(node, bias_name))
        _, kernel_h, kernel_w, _ = self.graph.tensors[w].shape
        if attributes["kernel_shape"] not in ([], [kernel_h, kernel_w]):
            raise unknown(node, "its kernel_shape is not that of its weight")
        _, height, width, _ = self.graph.tensors[x].shape
        stride, margins = _pair(attributes["strides"]), _margins(node, attributes["pads"])
        same = is_same((height, width), (kernel_h, kernel_w), stride, margins)
        if not same and any(margins):
            x = self.graph.pad(x, margins, f"{label}.padded")
        result = self.graph.convolution(x, w, b, stride, same and any(margins), fused.relu is not None, out)
        self._put(fused, result)

    def _check_bias(self, node: onnx.NodeProto, source: int, weight: _Weights, bias: _Weights) -> None:
        if weight.integers.dtype != np.int8 or bias.integers.dtype != np.int32:
            raise unknown(node, "its weights must be int8 and its bias int32")
        quantization = self.graph.tensors[source].quantization
        assert quantization is not None
        product = weight.scale.astype(np.float64) * float(quantization.scale[0])
        if not np.allclose(bias.scale, product, rtol=_BIAS_SCALE_TOLERANCE, atol=0):
            raise unknown(node, "the scale of its bias is not that of its input times that of its weights")

    def _average_pool(self, node: onnx.NodeProto) -> None:
        defaults = {"kernel_shape": [], "pads": [0] * 4, "strides": [1, 1], "ceil_mode": 0,
                    "count_include_pad": 0, **_WINDOW}  # fmt: skip
        attributes = self.source.attributes(node, defaults, {"ceil_mode": 0, **_WINDOW})
        margins = _margins(node, attributes["pads"])
        if any(margins) and not attributes["count_include_pad"]:
            raise unknown(node, "padding that does not count in the mean is not known")
        size, stride = _pair(attributes["kernel_shape"]), _pair(attributes["strides"])

        def emit(x: int, out: Tensor) -> int:
            if any(margins):
                x = self.graph.pad(x, margins, f"{out.name}.padded")
            return self.graph.average_pool(x, size, stride, out)

        self._move(node, [node.input[0]], lambda xs, out: emit(xs[0], out), rescales=True)

    def _pad(self, node: onnx.NodeProto) -> None:
        source, pads_name, value_name, axes_name = self.source.inputs(node, 2, 4)
        mode = self.source.attributes(node, {"mode": b"constant"}, {})["mode"]
        if mode not in (b"constant", b"edge"):
            raise unknown(node, f"its mode is {mode!r}")
        if axes_name or (value_name and self.source.constant(node, value_name).any()):
            raise unknown(node, "padding is of zeros, of all axes")
        pads = self.source.integers(node, pads_name)
        if len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)):
            raise unknown(node, f"it pads {pads}, not only height and width")
        margins = _margins(node, [*pads[2:4], *pads[6:8]])
        pad = self.graph.pad_edge if mode == b"edge" else self.graph.pad
        self._move(node, [source], lambda xs, out: pad(xs[0], margins, out.name))

    def _resize(self, node: onnx.NodeProto) -> None:
        source, roi, scales, _ = self.source.inputs(node, 4, 4)
        if roi or scales:
            raise unknown(node, "it must be given a size")
        # The three without a fixed value belong to other modes.
        defaults = {"mode": b"nearest", "coordinate_transformation_mode": b"half_pixel", "antialias": 0,
                    "axes": [], "exclude_outside": 0, "keep_aspect_ratio_policy": b"stretch",
                    "cubic_coeff_a": 0, "extrapolation_value": 0, "nearest_mode": b""}  # fmt: skip
        fixed = {"mode": b"linear", "coordinate_transformation_mode": b"half_pixel", "antialias": 0, "axes": [],
                 "exclude_outside": 0, "keep_aspect_ratio_policy": b"stretch"}  # fmt: skip
        self.source.attributes(node, defaults, fixed)
        if self.source.shape(source)[:2] != self.source.shape(node.output[0])[:2]:
            raise unknown(node, "only height and width are resized")

        def emit(x: int, out: Tensor) -> int:
            if out.dtype == _INT8 and not _equal(self.graph.tensors[x].quantization, out.quantization):
                raise unknown(node, "its result must have the quantization of its input")
            return self.graph.resize(x, out)

        self._move(node, [source], lambda xs, out: emit(xs[0], out), rescales=True)

    def _slice(self, node: onnx.NodeProto) -> None:
        source, *names = self.source.inputs(node, 5, 5)
        self.source.attributes(node, {}, {})
        starts, _, axes, steps = (self.source.integers(node, name) for name in names)
        begin = [0] * 4
        for start, axis, step in zip(starts, axes, steps, strict=True):
            if step != 1 or start < 0 or axis < 0:
                raise unknown(node, "steps must be 1, starts and axes not negative")
            begin[_AXIS_LAST[axis]] = start
        self._move(node, [source], lambda xs, out: self.graph.slice(xs[0], begin, out))

    def _concat(self, node: onnx.NodeProto) -> None:
        axis = int(self.source.attributes(node, {"axis": -1}, {})["axis"])
        if not 0 <= axis < 4:
            raise unknown(node, f"its axis is {axis}")
        variable = [name for name in node.input if not self.source.is_constant(name)]
        if variable and not self._value(node, variable[0]).channels_first:
            self._concat_image(node, axis)
            return
        self._move(
            node, list(node.input), lambda xs, out: self.graph.concatenation(xs, _AXIS_LAST[axis], out)
        )

    def _concat_image(self, node: onnx.NodeProto, axis: int) -> None:
        """Of uint8 tensors that are channels last in ONNX too: the image and a constant channel."""
        tensors = []
        for name in node.input:
            if self.source.is_constant(name):
                values = self.source.constant(node, name)
                if values.dtype != _UINT8:
                    raise unknown(node, f"'{name}' is not uint8")
                tensors.append(self.graph.constant(name, values, _quantization(1.0, 0)))
            else:
                value = self._value(node, name)
                if value.channels_first or self._dtype(value) != _UINT8 or value.dequantized:
                    raise unknown(node, f"'{name}' is not a uint8 image, channels last")
                tensors.append(value.tensor)
        out = Tensor(node.output[0], self.source.shape(node.output[0]), _UINT8, _quantization(1.0, 0))
        result = self.graph.concatenation(tensors, axis, out)
        self.values[node.output[0]] = _Value(result, channels_first=False)

    def _square(self, node: onnx.NodeProto) -> None:
        a, b = self.source.inputs(node, 2, 2)
        self.source.attributes(node, {}, {})
        self._channels_first(node)
        if a != b:
            raise unknown(node, "only a tensor times itself is known")
        out = Tensor(node.output[0], self._shape_last(node.output[0]), _FLOAT)
        self.values[node.output[0]] = _Value(self.graph.square(self._real(node, a), out))

    def _mean(self, node: onnx.NodeProto) -> None:
        source, axes = self.source.inputs(node, 2, 2)
        self.source.attributes(node, {"keepdims": 1, "noop_with_empty_axes": 0}, {"keepdims": 0})
        self._channels_first(node)
        if self.source.integers(node, axes) != [1]:
            raise unknown(node, "only the mean over the channels is known")
        out = Tensor(node.output[0], self.source.shape(node.output[0]), _FLOAT)
        # Without its channels the result has the same axes in both layouts; nothing but an output is made of it.
        self.values[node.output[0]] = _Value(
            self.graph.mean_channels(self._real(node, source), out), channels_first=False
        )

    # Values

    def _move(
        self,
        node: onnx.NodeProto,
        sources: Sequence[str],
        emit: Callable[[list[int], Tensor], int],
        rescales: bool = False,
    ) -> None:
        """An operator that makes no larger values: INT8 where inputs and result are quantized.

        One that only picks values may get a result of another quantization than its inputs: these are
        converted before. One that ``rescales`` does so itself.
        """
        self._channels_first(node, sources)
        fused = self._fused(node, relu=False)
        if fused.quantize is not None and all(self._is_integer(name) for name in sources):
            out = self._integer_tensor(fused.quantize, fused.result)
            tensors = [self._integer(n) if rescales else self._requantized(n, out) for n in sources]
        else:
            fused = _Fused(fused.result, None, None)
            out = Tensor(fused.result, self._shape_last(fused.result), _FLOAT)
            tensors = [self._real(node, name) for name in sources]
        self._put(fused, emit(tensors, out))

    def _fused(self, node: onnx.NodeProto, relu: bool) -> _Fused:
        name = node.output[0]
        activation = self.source.only_consumer(name, "Relu") if relu else None
        if activation is not None:
            name = activation.output[0]
        return _Fused(name, activation, self.source.only_consumer(name, "QuantizeLinear"))

    def _put(self, fused: _Fused, tensor: int) -> None:
        """``tensor`` is what the last of the fused nodes makes."""
        if fused.relu is not None:
            self.done.add(fused.relu.output[0])
        name = fused.result
        if fused.quantize is not None:
            name = fused.quantize.output[0]
            self.done.add(name)
        self.values[name] = _Value(tensor)

    def _value(self, node: onnx.NodeProto, name: str) -> _Value:
        if name not in self.values:
            raise unknown(node, f"its input '{name}' is not the result of a known operator")
        return self.values[name]

    def _channels_first(self, node: onnx.NodeProto, sources: Sequence[str] | None = None) -> None:
        for name in sources or [node.input[0]]:
            if not self._value(node, name).channels_first or len(self.source.shape(name)) != 4:
                raise unknown(node, f"its input '{name}' is not NxCxHxW")

    def _dtype(self, value: _Value) -> np.dtype[Any]:
        return self.graph.tensors[value.tensor].dtype

    def _shape_last(self, name: str) -> tuple[int, ...]:
        n, channels, height, width = self.source.shape(name)
        return n, height, width, channels

    def _is_integer(self, name: str) -> bool:
        return name in self.values and self.values[name].dequantized

    def _real(self, node: onnx.NodeProto, name: str) -> int:
        """The stored float tensor of an ONNX float tensor."""
        value = self._value(node, name)
        if self._dtype(value) == _FLOAT:
            return value.tensor
        if not value.dequantized:
            raise unknown(node, f"its input '{name}' is an integer tensor")
        return self._converted(
            (value.tensor, None, 0), lambda: self.graph.dequantize(value.tensor, f"{name}.float")
        )

    def _real_constant(self, node: onnx.NodeProto, name: str) -> npt.NDArray[np.float32]:
        if name in self.weights:
            return self.weights[name].real()
        values = self.source.constant(node, name)
        if values.dtype != _FLOAT:
            raise unknown(node, f"its input '{name}' is not float32")
        return values

    def _integer(self, name: str) -> int:
        """The stored INT8 tensor of a dequantized ONNX tensor; the uint8 image is shifted, which loses nothing."""
        value = self.values[name]
        tensor = self.graph.tensors[value.tensor]
        if tensor.dtype == _INT8:
            return value.tensor
        assert tensor.quantization is not None
        scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zero[0]) - _SIGN
        return self._quantized(value.tensor, Tensor("", (), _INT8, _quantization(scale, zero)))

    def _requantized(self, name: str, like: Tensor) -> int:
        """The stored INT8 tensor with the quantization of another one."""
        tensor = self._integer(name)
        if _equal(self.graph.tensors[tensor].quantization, like.quantization):
            return tensor
        return self._quantized(tensor, like)

    def _quantized(self, source: int, like: Tensor) -> int:
        quantization = like.quantization
        assert quantization is not None
        tensor = self.graph.tensors[source]
        scale, zero = float(quantization.scale[0]), int(quantization.zero[0])
        out = Tensor(f"{tensor.name}.int8", tensor.shape, _INT8, quantization)
        return self._converted((source, scale, zero), lambda: self.graph.quantize(source, out))

    def _converted(self, key: tuple[int, float | None, int], emit: Callable[[], int]) -> int:
        """A conversion that is made once, however many operators take its result."""
        if key not in self.conversions:
            self.conversions[key] = emit()
        return self.conversions[key]


def _quantization(scale: float, zero: int) -> Quantization:
    return Quantization(np.array([scale], np.float32), np.array([zero], np.int64))


def _equal(a: Quantization | None, b: Quantization | None) -> bool:
    assert a is not None and b is not None
    return np.array_equal(a.scale, b.scale) and np.array_equal(a.zero, b.zero)


def _signed(node: onnx.NodeProto, zero: np.generic) -> int:
    """The zero point of the INT8 tensor that a tensor of uint8 or int8 becomes."""
    if zero.dtype == _UINT8:
        return int(zero) - _SIGN
    if zero.dtype == _INT8:
        return int(zero)
    raise unknown(node, f"activations of {zero.dtype} are not known")


def _pair(values: Sequence[int]) -> tuple[int, int]:
    height, width = values
    return height, width


def _margins(node: onnx.NodeProto, pads: Sequence[int]) -> Margins:
    """From ONNX's order: top, left, bottom, right."""
    if min(pads) < 0:
        raise unknown(node, f"its padding is negative: {list(pads)}")
    top, left, bottom, right = pads
    return top, bottom, left, right
