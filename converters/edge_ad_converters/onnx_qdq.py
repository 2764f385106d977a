"""Static INT8 for the fused graph: QuantizeLinear and DequantizeLinear pairs around its convolutions.

Activations are uint8 with a zero point, weights int8, symmetric, one scale for each output channel, biases
int32. The image is uint8 already and is dequantized with scale 1: nothing is lost there. The difference
itself is quantized with headroom above what good images reach; its square, the mean and all scoring stay in
float.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_ad_converters.ranges import Statistics

# A defect's differences lie above those of good images, which are all that calibration sees.
DIFFERENCE_HEADROOM = 4.0
# These move values without making new ones, so their outputs keep the scale of their inputs.
_PASSING = ("AveragePool", "Resize", "Pad", "Concat", "Slice")


def activations(model: onnx.ModelProto) -> list[str]:
    """The float tensors that get a quantization: results of convolutions (after their ReLU) and of what moves them."""
    consumers = _consumers(model)
    found = []
    for node in model.graph.node:
        if node.op_type in _PASSING and node.output[0] not in _uint8_tensors(model):
            found.append(node.output[0])
        elif node.op_type == "Conv":
            users = consumers[node.output[0]]
            relu = len(users) == 1 and users[0].op_type == "Relu"
            found.append(users[0].output[0] if relu else node.output[0])
    return found


def tensors_to_observe(model: onnx.ModelProto) -> list[str]:
    """The tensors whose statistics :func:`quantize_onnx` needs."""
    inputs = [n.input[0] for n in model.graph.node if n.op_type == "Conv"]
    return list(dict.fromkeys([*activations(model), *inputs]))


def quantize_onnx(model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> onnx.ModelProto:
    """The graph with QDQ pairs.

    Args:
        model: the float graph of :func:`edge_ad_converters.onnx_float.export_onnx`.
        statistics: of each of :func:`tensors_to_observe` over calibration images.
    """
    return _Quantizer(model, statistics).run()


class _Quantizer:
    def __init__(self, model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.weights = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        self.statistics = statistics
        self.scales = _scales(self.model, statistics)
        self.nodes: list[onnx.NodeProto] = []
        self.renamed: dict[str, str] = {}

    def run(self) -> onnx.ModelProto:
        for node in self.graph.node:
            if node.op_type == "Cast":
                self._image(node)
                continue
            if node.op_type == "Conv":
                self._conv(node)
            else:
                self._rewire(node)
                self.nodes.append(node)
            for output in node.output:
                if output in self.scales:
                    self._pair(output)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [i for i in self.graph.initializer if i.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        del self.graph.value_info[:]
        onnx.checker.check_model(self.model)
        return self.model

    def _image(self, cast: onnx.NodeProto) -> None:
        """Dequantize the uint8 image with scale 1 in place of the cast."""
        output = cast.output[0]
        self._scalars(output, np.float32(1), np.uint8(0))
        self._node("DequantizeLinear", [cast.input[0], f"{output}.scale", f"{output}.zero"], output)
        self.scales[output] = (1.0, 0)

    def _pair(self, tensor: str) -> None:
        scale, zero = self.scales[tensor]
        self._scalars(tensor, np.float32(scale), np.uint8(zero))
        parameters = [f"{tensor}.scale", f"{tensor}.zero"]
        self._node("QuantizeLinear", [tensor, *parameters], f"{tensor}.quantized")
        self._node("DequantizeLinear", [f"{tensor}.quantized", *parameters], f"{tensor}.dequantized")
        self.renamed[tensor] = f"{tensor}.dequantized"

    def _conv(self, node: onnx.NodeProto) -> None:
        source, weight_name, bias_name = node.input
        weight, bias = self.weights[weight_name], self.weights[bias_name]
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        # A channel of zeros keeps zeros whatever its scale is.
        scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
        bias_scale = (scale * np.float32(self.scales[source][0])).astype(np.float32)
        rounded = _round_keeping_sums(weight / scale[:, None, None, None])
        # Bias correction (Nagel et al., arXiv 1906.04721, section 4.2): what the rounding of the weights does to
        # the mean input is taken back exactly.
        error = (weight - rounded * scale[:, None, None, None]).sum((2, 3), dtype=np.float64)
        bias = bias + error @ self.statistics[node.input[0]].channel_mean
        wide = np.clip(np.rint(bias / bias_scale), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        self._constant(weight_name, rounded, scale)
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
        inputs = [f"{name}.quantized", f"{name}.scale", f"{name}.zero"]
        self._node("DequantizeLinear", inputs, f"{name}.dequantized", axis=0)
        self.renamed[name] = f"{name}.dequantized"

    def _scalars(self, tensor: str, scale: np.float32, zero: np.uint8) -> None:
        self._initializer(f"{tensor}.scale", np.asarray(scale))
        self._initializer(f"{tensor}.zero", np.asarray(zero))

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


def _round_keeping_sums(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Round to int8 so that the sum over each kernel ``values[o, i]`` is rounded too, not a sum of roundings.

    What most of an input looks like to a kernel is a constant; rounding each tap by itself then adds up to
    an offset of the output, which in the first layer, whose input is a bright image, is the largest error
    of the whole graph. Taps that were closest to the other integer are moved until the sum fits.
    """
    nearest = np.rint(values)
    flat = nearest.reshape(-1, values.shape[2] * values.shape[3])
    error = (values - nearest).reshape(flat.shape)
    for row, residual in zip(flat, error, strict=True):
        missing = int(np.rint(residual.sum()))
        if missing:
            step = 1 if missing > 0 else -1
            row[np.argsort(-step * residual)[: abs(missing)]] += step
    return np.clip(nearest, -127, 127).astype(np.int8)


def _scales(model: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each activation; tensors joined by a passing operator share theirs."""
    quantized = set(activations(model))
    differences = _differences(model)
    group = {name: name for name in quantized}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for node in model.graph.node:
        if node.op_type in _PASSING:
            for name in node.input:
                if name in quantized and node.output[0] in quantized:
                    group[root(name)] = root(node.output[0])
    low: dict[str, float] = defaultdict(float)
    high: dict[str, float] = defaultdict(float)
    for name in quantized:
        factor = DIFFERENCE_HEADROOM if name in differences else 1.0
        low[root(name)] = min(low[root(name)], statistics[name].low * factor)
        high[root(name)] = max(high[root(name)], statistics[name].high * factor)
    result = {}
    for name in quantized:
        a, b = low[root(name)], high[root(name)]
        # A tensor that is zero on every calibration image (dead channels only) still needs a scale.
        scale = (b - a) / 255 or 1.0
        result[name] = (scale, int(np.clip(round(-a / scale), 0, 255)))
    return result


def _differences(model: onnx.ModelProto) -> set[str]:
    """The results of the convolutions that are squared: the differences."""
    return {n.input[0] for n in model.graph.node if n.op_type == "Mul" and n.input[0] == n.input[1]}


def _consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def _uint8_tensors(model: onnx.ModelProto) -> set[str]:
    """The image and what is made of it before the cast to float."""
    found = {i.name for i in model.graph.input}
    found |= {i.name for i in model.graph.initializer if i.data_type == TensorProto.UINT8}
    for node in model.graph.node:
        if node.op_type in ("Transpose", "Concat") and all(name in found for name in node.input):
            found.update(node.output)
    return found
