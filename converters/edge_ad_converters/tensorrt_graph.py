"""A fused graph in the form that TensorRT 8.5 to 10 reads; what it computes stays the same, bit by bit."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_ad_converters.tensorrt_rules import MAX_OPSET
from edge_ad_runtime.errors import InputError

# The ONNX release that brought opset 17 wrote this version of the format.
_IR_VERSION = 8
# What opset 18 added to Resize, with the values that mean what 17 does.
_NEW_IN_RESIZE = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}


def for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for TensorRT, for :func:`edge_ad_converters.tensorrt_rules.check_tensorrt` to judge.

    The uint8 image is cast to float before anything else is done with it; weights stored as int8 become the
    float constants that they stand for, with a QuantizeLinear that gives the same int8 again; the ends of
    slices fit int32; opset 18 becomes 17 (onnx's own version converter has no way down for Pad).

    Args:
        model: the float graph of :func:`edge_ad_converters.onnx_float.export_onnx`, or its symmetric QDQ form.

    Raises:
        InputError: the graph uses something of opset 18 that 17 has no words for.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _cast_first(result.graph)
    _float_weights(result.graph)
    _clamp_slices(result.graph)
    _lower_opset(result)
    # Not inferred anew: types have changed, and whoever needs them infers them.
    del result.graph.value_info[:]
    onnx.checker.check_model(result, full_check=True)
    return result


def _cast_first(graph: onnx.GraphProto) -> None:
    """Move the casts of the image before what moves its pixels (Transpose, Concat with a constant)."""
    nodes: list[onnx.NodeProto] = []
    floats: dict[str, str] = {}
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            floats[value.name] = f"{value.name}.float"
            nodes.append(
                helper.make_node(
                    "Cast", [value.name], [floats[value.name]], f"{value.name}:Cast", to=TensorProto.FLOAT
                )
            )
    constants = {i.name: i for i in graph.initializer if i.data_type == TensorProto.UINT8}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in floats:
            floats[node.output[0]] = floats[node.input[0]]
            continue
        if node.op_type in ("Transpose", "Concat") and any(name in floats for name in node.input):
            for name in node.input:
                if name in constants:
                    constant = constants.pop(name)
                    constant.CopyFrom(
                        numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float32), name)
                    )
            floats |= {name: name for name in node.output if name not in floats}
        for i, name in enumerate(node.input):
            node.input[i] = floats.get(name, name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _float_weights(graph: onnx.GraphProto) -> None:
    """Weights of int8 with a DequantizeLinear get the QuantizeLinear that TensorRT 8 wants."""
    constants = {i.name: i for i in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        stored = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if stored is not None and stored.data_type == TensorProto.INT8:
            name = stored.name
            values, scale = (numpy_helper.to_array(constants[n]) for n in node.input[:2])
            shape = [-1] + [1] * (values.ndim - 1) if scale.size > 1 else []
            # rint(q * s / s) is q for every int8 q: two roundings to 24 bits cannot reach a half.
            real = (values * scale.reshape(shape)).astype(np.float32)
            stored.CopyFrom(numpy_helper.from_array(real, name))
            quantize = helper.make_node(
                "QuantizeLinear", list(node.input), [f"{name}:int8"], f"{name}:QuantizeLinear"
            )
            quantize.attribute.extend(a for a in node.attribute if a.name == "axis")
            nodes.append(quantize)
            node.input[0] = quantize.output[0]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _clamp_slices(graph: onnx.GraphProto) -> None:
    """Slice's "to the end", the largest int64, becomes the largest int32, which means the same."""
    limits = np.iinfo(np.int32)
    operands = {name for node in graph.node if node.op_type == "Slice" for name in node.input[1:]}
    for constant in graph.initializer:
        if constant.name in operands and constant.data_type == TensorProto.INT64:
            values = numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(np.clip(values, limits.min, limits.max), constant.name))


def _lower_opset(model: onnx.ModelProto) -> None:
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) > 1:
            _reduce_axes(node, constants[node.input[1]].tolist())
        elif node.op_type == "Resize":
            _strip_resize(node)
    used = {name for node in model.graph.node for name in node.input}
    kept = [i for i in model.graph.initializer if i.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, MAX_OPSET)
    model.ir_version = _IR_VERSION


def _reduce_axes(node: onnx.NodeProto, axes: list[int]) -> None:
    kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
    del node.input[1:]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("axes", axes)])


def _strip_resize(node: onnx.NodeProto) -> None:
    kept = []
    for attribute in node.attribute:
        if attribute.name in _NEW_IN_RESIZE:
            if helper.get_attribute_value(attribute) != _NEW_IN_RESIZE[attribute.name]:
                raise InputError(f"Resize '{node.name}': opset {MAX_OPSET} has no {attribute.name}")
        elif attribute.name == "axes":
            raise InputError(f"Resize '{node.name}': opset {MAX_OPSET} has no axes")
        else:
            kept.append(attribute)
    del node.attribute[:]
    node.attribute.extend(kept)
