"""Static INT8 for the fused graph: QuantizeLinear and DequantizeLinear pairs around its convolutions.

Weights are int8, symmetric, one scale for each output channel. The difference itself is quantized; its square,
the mean and all scoring stay in float. The image is quantized without loss. Layers may be left in float.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edge_ad_converters.graph import PASSING, activations, convolutions, image_tensors, layer_name

# An average pooling may have a finer grid than its input: averages do not reach its extremes.
_SAME_GRID = tuple(op for op in PASSING if op != "AveragePool")

Scheme = Literal["asymmetric", "symmetric"]
"""``asymmetric``: activations uint8 with a zero point, biases int32; the image uint8 with scale 1.
``symmetric``, for TensorRT: activations int8 with zero point 0, biases float; the image int8 (the graph
subtracts 128, see :class:`edge_ad_converters.fuse.FusedNets`)."""

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Grid:
    """``real = scale * (integer - zero)``; the integer is uint8, or int8 where ``zero`` is always 0."""

    scale: float
    zero: int


def quantize_onnx(
    model: onnx.ModelProto,
    ranges: Ranges,
    channel_means: Mapping[str, npt.NDArray[np.float64]],
    *,
    scheme: Scheme = "asymmetric",
    in_float: Collection[str] = (),
) -> onnx.ModelProto:
    """The graph with QDQ pairs.

    Args:
        model: the float graph of :func:`edge_ad_converters.onnx_float.export_onnx`; for the scheme
            ``symmetric`` with the image centred.
        ranges: the lowest and highest value of each of :func:`edge_ad_converters.graph.activations`.
        channel_means: mean of each channel (``float64 C``) of each convolution's input.
        scheme: the kind of grid.
        in_float: the layers (:func:`edge_ad_converters.graph.layer_name`) that stay float.
    """
    return _Quantizer(model, ranges, channel_means, scheme, in_float).run()


def grids(model: onnx.ModelProto, ranges: Ranges, scheme: Scheme) -> dict[str, Grid]:
    """The grid of each activation; tensors joined by an operator that moves values share theirs."""
    quantized = set(activations(model))
    group = {name: name for name in quantized}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for node in model.graph.node:
        if node.op_type in _SAME_GRID:
            for name in node.input:
                if name in quantized and node.output[0] in quantized:
                    group[root(name)] = root(node.output[0])
    low: dict[str, float] = defaultdict(float)
    high: dict[str, float] = defaultdict(float)
    for name in quantized:
        low[root(name)] = min(low[root(name)], ranges[name][0])
        high[root(name)] = max(high[root(name)], ranges[name][1])
    return {name: _grid(low[root(name)], high[root(name)], scheme) for name in quantized}


def _grid(low: float, high: float, scheme: Scheme) -> Grid:
    # A tensor that is zero on every calibration image (dead channels only) still needs a scale.
    if scheme == "symmetric":
        return Grid(max(-low, high) / 127 or 1.0, 0)
    scale = (high - low) / 255 or 1.0
    return Grid(scale, int(np.clip(round(-low / scale), 0, 255)))


class _Quantizer:
    def __init__(
        self,
        model: onnx.ModelProto,
        ranges: Ranges,
        channel_means: Mapping[str, npt.NDArray[np.float64]],
        scheme: Scheme,
        in_float: Collection[str],
    ) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.weights = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        self.channel_means = channel_means
        self.symmetric = scheme == "symmetric"
        self.integers = {n.input[1] for n in convolutions(model) if layer_name(n) not in in_float}
        self.image = _image_entries(model)
        read = _read_in_integers(model, self.integers)
        self.grids = {name: grid for name, grid in grids(model, ranges, scheme).items() if name in read}
        self.nodes: list[onnx.NodeProto] = []
        self.renamed: dict[str, str] = {}

    def run(self) -> onnx.ModelProto:
        for node in self.graph.node:
            if node.op_type == "Conv" and node.input[1] in self.integers:
                self._conv(node)
            elif node.op_type == "Cast" and node.output[0] in self.image and not self.symmetric:
                # Scale 1 and zero point 0: the cast in the integers' own words.
                self._parameters(node.output[0], Grid(1.0, 0))
                self._node("DequantizeLinear", [node.input[0], *self._names(node.output[0])], node.output[0])
            else:
                self._rewire(node)
                self.nodes.append(node)
            for output in node.output:
                if output in self.grids:
                    self._pair(output, self.grids[output])
                elif output in self.image and self.symmetric:
                    self._pair(output, Grid(1.0, 0))
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [i for i in self.graph.initializer if i.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        del self.graph.value_info[:]
        onnx.checker.check_model(self.model)
        return self.model

    def _pair(self, tensor: str, grid: Grid) -> None:
        self._parameters(tensor, grid)
        self._node("QuantizeLinear", [tensor, *self._names(tensor)], f"{tensor}.quantized")
        self._node("DequantizeLinear", [f"{tensor}.quantized", *self._names(tensor)], f"{tensor}.dequantized")
        self.renamed[tensor] = f"{tensor}.dequantized"

    def _conv(self, node: onnx.NodeProto) -> None:
        source, weight_name, bias_name = node.input
        weight, bias = self.weights[weight_name], self.weights[bias_name]
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        # A channel of zeros keeps zeros whatever its scale is; its bias should not become coarse with it.
        scale = np.where(scale > 0, scale, np.maximum(np.abs(bias), 1e-6) / 2**20).astype(np.float32)
        rounded = _round_keeping_sums(weight / scale[:, None, None, None])
        # Bias correction (Nagel et al., arXiv 1906.04721, section 4.2): what the rounding of the weights does to
        # the mean input is taken back exactly.
        error = (weight - rounded * scale[:, None, None, None]).sum((2, 3), dtype=np.float64)
        bias = bias + error @ self.channel_means[source]
        self._constant(weight_name, rounded, scale)
        if self.symmetric:
            self._initializer(f"{bias_name}.corrected", bias.astype(np.float32))
            self.renamed[bias_name] = f"{bias_name}.corrected"
        else:
            grid = Grid(1.0, 0) if source in self.image else self.grids[source]
            bias_scale = (scale * np.float32(grid.scale)).astype(np.float32)
            wide = np.clip(np.rint(bias / bias_scale), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            self._constant(bias_name, wide, bias_scale)
        self._rewire(node)
        self.nodes.append(node)

    def _constant(
        self, name: str, values: npt.NDArray[np.signedinteger], scale: npt.NDArray[np.float32]
    ) -> None:
        """A constant that is stored quantized by channel and dequantized in the graph."""
        self._initializer(f"{name}.quantized", values)
        self._initializer(f"{name}.scale", scale)
        self._initializer(f"{name}.zero", np.zeros(len(scale), values.dtype))
        self._node(
            "DequantizeLinear", [f"{name}.quantized", *self._names(name)], f"{name}.dequantized", axis=0
        )
        self.renamed[name] = f"{name}.dequantized"

    def _names(self, tensor: str) -> list[str]:
        return [f"{tensor}.scale", f"{tensor}.zero"]

    def _parameters(self, tensor: str, grid: Grid) -> None:
        scale, zero = self._names(tensor)
        self._initializer(scale, np.asarray(np.float32(grid.scale)))
        self._initializer(zero, np.asarray(grid.zero, np.int8 if self.symmetric else np.uint8))

    def _initializer(self, name: str, values: npt.NDArray[np.generic]) -> None:
        self.graph.initializer.append(numpy_helper.from_array(values, name))

    def _node(self, op: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        node = helper.make_node(op, inputs, [output], name=f"{output}:{op}")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)

    def _rewire(self, node: onnx.NodeProto) -> None:
        for i, name in enumerate(node.input):
            node.input[i] = self.renamed.get(name, name)


def _image_entries(model: onnx.ModelProto) -> set[str]:
    """The float image as the first convolutions read it."""
    image = image_tensors(model)
    found = {n.output[0] for n in model.graph.node if n.op_type == "Cast" and n.input[0] in image}
    # The centred image is the cast one less 128.
    return {
        next((n.output[0] for n in model.graph.node if n.op_type == "Sub" and n.input[0] == name), name)
        for name in found
    }


def _read_in_integers(model: onnx.ModelProto, weights: Collection[str]) -> set[str]:
    """The tensors that an INT8 convolution makes or reads, directly or through what moves values.

    Results of INT8 convolutions are among them because engines compute in integers only what they also
    return in integers.
    """
    found: set[str] = set()
    for node in reversed(model.graph.node):
        if (node.op_type == "Conv" and node.input[1] in weights) or (
            node.op_type in PASSING and node.output[0] in found
        ):
            found.add(node.input[0]) if node.op_type == "Conv" else found.update(node.input)
    moving = {*PASSING, "Relu"}
    made = {n.output[0] for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights}
    for node in model.graph.node:
        if node.op_type in moving and node.input[0] in made:
            made.add(node.output[0])
    return found | made


def _round_keeping_sums(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Round to int8 so that the sum over each kernel ``values[o, i]`` is rounded too, not a sum of roundings.

    What most of an input looks like to a kernel is a constant; rounding each tap by itself then adds up to
    an offset of the output, which in the first layer, whose input is a bright image, is the largest error
    of the whole graph. Taps that were closest to the other integer are moved until the sum fits.
    """
    nearest = np.rint(values)
    error = (values - nearest).reshape(-1, values.shape[2] * values.shape[3])
    missing = np.rint(error.sum(1, keepdims=True))
    step = np.sign(missing)
    ranks = np.argsort(np.argsort(-step * error, axis=1), axis=1)
    nearest += (step * (ranks < np.abs(missing))).reshape(values.shape)
    return np.clip(nearest, -127, 127).astype(np.int8)
