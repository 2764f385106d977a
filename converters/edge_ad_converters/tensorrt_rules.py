"""TensorRT's rules for a graph with explicit Q/DQ, checked without TensorRT.

The rules are the strictest of TensorRT 8.5 (JetPack 5.1) to 10 (JetPack 6), so a graph that keeps them suits
all of these. The sources, named at each rule:

- *guide*: NVIDIA TensorRT documentation, "Working with Quantized Types" and "Explicit Quantization" (in the
  guides of 8.x, "Working with INT8", with the recommendations for placing Q/DQ);
- *matrix*: github.com/onnx/onnx-tensorrt, docs/operators.md as of 8.5 to 10.0;
- *importer*: the same repository, builtin_op_importers.cpp as of 8.5 and 8.6, where it is stricter or plainer.

What passes here was still never shown to a TensorRT: that is what the golden samples on the device are for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_OPSET, MAX_OPSET = 13, 17
# Of the operators in the matrix, those that the fused graph is made of.
OPERATORS = frozenset(
    ("Add", "AveragePool", "Cast", "Concat", "Conv", "DequantizeLinear", "Identity", "Mul", "Pad",
     "QuantizeLinear", "ReduceMean", "Relu", "Resize", "Slice", "Sub", "Transpose")
)  # fmt: skip
_RESIZE_MODES = ("nearest", "linear")
_RESIZE_COORDINATES = (
    "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"
)  # fmt: skip
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_INT32 = np.iinfo(np.int32)


def check_tensorrt(model: onnx.ModelProto) -> tuple[str, ...]:
    """What in the graph breaks TensorRT's rules, in words; empty where nothing does.

    Float graphs may be checked too: the rules for Q/DQ then find nothing to look at.
    """
    graph = _Graph(model)
    return tuple(dict.fromkeys(problem for rule in _RULES for problem in rule(graph)))


class _Graph:
    """Who makes each tensor, who uses it, what the constants are, which types and shapes there are."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, list(model.graph.node)
        self.constants: dict[str, npt.NDArray[Any]] = {
            i.name: numpy_helper.to_array(i) for i in model.graph.initializer
        }
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        self.inputs = [i for i in model.graph.input if i.name not in self.constants]
        self.outputs = [o.name for o in model.graph.output]
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.values = {
            v.name: v.type.tensor_type for v in (*inferred.input, *inferred.value_info, *inferred.output)
        }

    def made_by(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is of this operator."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type == operator else None

    def of(self, *operators: str) -> Iterator[onnx.NodeProto]:
        return (n for n in self.nodes if n.op_type in operators)

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a Q or DQ works on a constant (a DQ perhaps through its Q)."""
        source = node.input[0]
        if quantize := self.made_by(source, "QuantizeLinear"):
            source = quantize.input[0]
        return source in self.constants

    def scale_of(self, name: str) -> npt.NDArray[Any] | None:
        """The scale of the DQ that makes a tensor, where it is constant."""
        node = self.made_by(name, "DequantizeLinear")
        return None if node is None else self.constants.get(node.input[1])


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name or node.output[0]}'"


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _opset(graph: _Graph) -> Iterator[str]:
    """Scales by axis came with opset 13; TensorRT 8.5 and 8.6 read up to 17, 10 reads 9 to 20 (matrix)."""
    for opset in graph.model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield f"operators of the domain '{opset.domain}' are unknown to TensorRT"
        elif not MIN_OPSET <= opset.version <= MAX_OPSET:
            yield f"opset {opset.version} is outside {MIN_OPSET} to {MAX_OPSET}"


def _operators(graph: _Graph) -> Iterator[str]:
    """Only operators, modes and operands that all versions import (matrix; importer).

    ReduceMean's importer of 8.x looks for the axes among the attributes alone and reduces over everything when
    they are an input. Resize takes constant sizes or scales. Pooling is 2D or 3D.
    """
    for node in graph.nodes:
        if node.op_type not in OPERATORS:
            yield f"{_name(node)}: this operator is not known to be supported"
        elif node.op_type == "ReduceMean" and len(node.input) > 1:
            yield f"{_name(node)}: its axes are an input, which TensorRT 8 ignores; they must be an attribute"
        elif node.op_type == "Resize":
            yield from _resize(graph, node)
        elif node.op_type in ("Pad", "Slice"):
            if any(name and name not in graph.constants for name in node.input[1:]):
                yield f"{_name(node)}: its operands must be constant"
        elif node.op_type == "AveragePool" and len(_attribute(node, "kernel_shape", [])) not in (2, 3):
            yield f"{_name(node)}: TensorRT pools in 2D or 3D only"


def _resize(graph: _Graph, node: onnx.NodeProto) -> Iterator[str]:
    mode = _attribute(node, "mode", "nearest")
    if mode not in _RESIZE_MODES:
        yield f"{_name(node)}: the mode '{mode}' is not supported"
    coordinates = _attribute(node, "coordinate_transformation_mode", "half_pixel")
    if coordinates not in _RESIZE_COORDINATES:
        yield f"{_name(node)}: the transformation mode '{coordinates}' is not supported"
    if any(name and name not in graph.constants for name in node.input[1:]):
        yield f"{_name(node)}: its sizes or scales must be constant"


def _types(graph: _Graph) -> Iterator[str]:
    """Float and int8 tensors. uint8 is for network inputs and goes straight into a Cast to float (matrix, 9.2:
    "UINT8 is only supported as network input or output"; importer of 8.5: its Cast). int64 is for constants
    that fit int32, to which TensorRT 8 turns them (matrix). Constants of uint8 are none of these.
    """
    for name, value in graph.values.items():
        if name in graph.constants or value.elem_type in (*_FLOATS, TensorProto.INT8):
            continue
        if value.elem_type != TensorProto.UINT8 or name not in {i.name for i in graph.inputs}:
            kind = TensorProto.DataType.Name(value.elem_type)
            yield f"the tensor '{name}' is {kind}, which TensorRT does not compute with"
            continue
        for node in graph.consumers[name]:
            if node.op_type != "Cast" or _attribute(node, "to", 0) not in _FLOATS:
                yield f"{_name(node)}: the uint8 input '{name}' must go straight into a Cast to float"
    for name, values in graph.constants.items():
        if values.dtype == np.int64:
            if values.size and (values.min() < _INT32.min or values.max() > _INT32.max):
                yield f"the constant '{name}' holds int64 values that do not fit int32"
        elif values.dtype not in (np.float32, np.float16, np.int8, np.int32):
            yield f"the constant '{name}' is {values.dtype}, which TensorRT does not take"


def _shapes(graph: _Graph) -> Iterator[str]:
    """Every shape is known: the engine is built without optimization profiles (guide, "Dynamic Shapes")."""
    for name, value in graph.values.items():
        if not value.HasField("shape") or any(d.dim_value < 1 for d in value.shape.dim):
            yield f"the tensor '{name}' has no fixed shape"


def _zero_points(graph: _Graph) -> Iterator[str]:
    """Quantization is to int8 and symmetric: the zero point is given, int8 and 0 (guide: signed INT8; matrix:
    "x_zero_point must be zero"; importer: three inputs, no UINT8). int32, as of a quantized bias, is refused
    ("only activation types allowed", github.com/onnx/onnx-tensorrt/issues/850).
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:
            yield f"{_name(node)}: the zero point must be given; TensorRT 8 wants three inputs"
            continue
        zero = graph.constants.get(node.input[2])
        if zero is None:
            yield f"{_name(node)}: the zero point must be constant"
        elif zero.dtype != np.int8:
            yield f"{_name(node)}: quantized to {zero.dtype}; TensorRT quantizes to int8 only"
        elif zero.any():
            yield f"{_name(node)}: the zero point is not 0; TensorRT quantizes symmetrically only"


def _scales(graph: _Graph) -> Iterator[str]:
    """Scales are build-time constants, positive (importer), and float 32 like what they scale."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.constants.get(node.input[1])
        if scale is None:
            yield f"{_name(node)}: the scale must be constant"
        elif scale.dtype != np.float32:
            yield f"{_name(node)}: the scale is {scale.dtype} and must be float32"
        elif not scale.size or not (np.isfinite(scale).all() and (scale > 0).all()):
            yield f"{_name(node)}: the scale must be finite and positive"


def _granularity(graph: _Graph) -> Iterator[str]:
    """Activations have one scale for each tensor, weights one for each output channel, the axis 0 of a
    convolution's (guide: per-channel for weights only; importer: as many scales as output channels). ONNX's
    default axis is 1.
    """
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.constants.get(node.input[1])
        if scale is None or scale.size == 1:
            continue
        if not graph.is_weight(node):
            yield f"{_name(node)}: an activation has {scale.size} scales; TensorRT allows one"
        elif _attribute(node, "axis", 1) != 0:
            yield f"{_name(node)}: weights are quantized along axis {_attribute(node, 'axis', 1)}, not 0"
        elif (shape := _constant_shape(graph, node)) and shape[0] != scale.size:
            yield f"{_name(node)}: {scale.size} scales for {shape[0]} output channels"


def _constant_shape(graph: _Graph, node: onnx.NodeProto) -> tuple[int, ...]:
    quantize = graph.made_by(node.input[0], "QuantizeLinear")
    source = node.input[0] if quantize is None else quantize.input[0]
    return tuple(graph.constants[source].shape)


def _pairs(graph: _Graph) -> Iterator[str]:
    """Q and DQ come in pairs of the same scale (guide). Weights are float constants with a Q and a DQ: only
    TensorRT 10 documents weights stored as int8 with a DQ alone; for 8 they were to be float
    (github.com/huggingface/optimum/pull/812, github.com/microsoft/onnxruntime/pull/9616).
    """
    for node in graph.of("QuantizeLinear"):
        users = graph.consumers[node.output[0]]
        if (
            not users
            or any(u.op_type != "DequantizeLinear" for u in users)
            or node.output[0] in graph.outputs
        ):
            yield f"{_name(node)}: its result must go into a DequantizeLinear and nowhere else"
    for node in graph.of("DequantizeLinear"):
        quantize = graph.made_by(node.input[0], "QuantizeLinear")
        if quantize is None:
            if node.input[0] in graph.constants:
                yield f"{_name(node)}: weights stored as integers; TensorRT 8 wants float ones with a QuantizeLinear"
            else:
                yield f"{_name(node)}: has no QuantizeLinear before it"
            continue
        before, after = (graph.constants.get(n.input[1]) for n in (quantize, node))
        if before is not None and after is not None and not np.array_equal(before, after):
            yield f"{_name(node)}: its scale is not that of its QuantizeLinear"


def _convolutions(graph: _Graph) -> Iterator[str]:
    """Where the weights are quantized, so is the input (guide: quantize all inputs of weighted operations); float
    weights make a float convolution, whatever its input. Weights are constant in the end; the bias is a float
    constant (importer: the bias must be an initializer).
    """
    for node in graph.of("Conv"):
        weights = graph.made_by(node.input[1], "DequantizeLinear")
        if weights is not None and graph.made_by(node.input[0], "DequantizeLinear") is None:
            yield f"{_name(node)}: its weights are quantized and its input is not"
        constant = node.input[1] in graph.constants if weights is None else graph.is_weight(weights)
        if not constant:
            yield f"{_name(node)}: its weights must be constant"
        if len(node.input) > 2:
            bias = graph.constants.get(node.input[2])
            if bias is None or bias.dtype not in (np.float32, np.float16):
                yield f"{_name(node)}: its bias must be a float constant"


def _fusions(graph: _Graph) -> Iterator[str]:
    """Q/DQ between a convolution and its ReLU keeps them from being one kernel (guide, placement of Q/DQ)."""
    for node in graph.of("Relu"):
        dequantize = graph.made_by(node.input[0], "DequantizeLinear")
        quantize = dequantize and graph.made_by(dequantize.input[0], "QuantizeLinear")
        if quantize and graph.made_by(quantize.input[0], "Conv"):
            yield f"{_name(node)}: stands behind Q/DQ; it must follow its convolution directly"


def _outputs(graph: _Graph) -> Iterator[str]:
    """A graph's outputs are not quantized: nothing after them gains by it (guide: by default, do not quantize
    outputs)."""
    for name in graph.outputs:
        if graph.made_by(name, "DequantizeLinear") or graph.made_by(name, "QuantizeLinear"):
            yield f"the output '{name}' is quantized"


def _concats(graph: _Graph) -> Iterator[str]:
    """The inputs of a Concat whose result is quantized are so too, and share one scale; else it has to be computed
    in float (guide: a layer that moves data runs in int8 when DQ can be moved behind it, which takes equal
    scales)."""
    for node in graph.of("Concat"):
        users = graph.consumers[node.output[0]]
        made = [graph.made_by(name, "DequantizeLinear") is not None for name in node.input]
        if not any(made) or all(u.op_type != "QuantizeLinear" for u in users):
            continue
        if not all(made):
            yield f"{_name(node)}: some of its inputs are quantized and some are not"
            continue
        scales = [scale for name in node.input if (scale := graph.scale_of(name)) is not None]
        if any(not np.array_equal(scale, scales[0]) for scale in scales[1:]):
            yield f"{_name(node)}: its inputs have different scales"


_RULES = (
    _opset, _operators, _types, _shapes, _zero_points, _scales, _granularity, _pairs, _convolutions,
    _fusions, _outputs, _concats,
)  # fmt: skip
