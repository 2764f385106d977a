"""Arithmetic and parameters of the graphs that are timed."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import onnx

from edge_ad_converters.cost import gmac
from edge_ad_converters.graph import convolutions


class Cost(msgspec.Struct, frozen=True):
    """Multiply-accumulates for one image, in units of 1e9, and the number of weights and biases."""

    gmac: float
    parameters: int


def onnx_cost(model: onnx.ModelProto) -> Cost:
    """Of all convolutions of a float or QDQ graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    # A quantized weight is made by a node from its integers.
    sizes = {v.name: math.prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.value_info}
    sizes |= {i.name: math.prod(i.dims) for i in graph.initializer}
    used = {name for node in convolutions(model) for name in node.input[1:]}
    return Cost(gmac(model), sum(sizes[name] for name in used))


def openvino_cost(path: Path) -> Cost:
    """Of all convolutions of an OpenVINO file for one image; each counts as having a bias."""
    import openvino as ov

    model = ov.Core().read_model(path)
    model.reshape([1, *(d.get_length() for d in list(model.input(0).partial_shape)[1:])])
    counted = parameters = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convolution":
            weight, output = list(node.input_value(1).get_shape()), list(node.output(0).get_shape())
            counted += math.prod(output) * math.prod(weight[1:])
            parameters += math.prod(weight) + weight[0]
    return Cost(counted / 1e9, parameters)
