"""The arithmetic of a graph."""

from __future__ import annotations

import math

import onnx

from edge_ad_converters.graph import convolutions, layer_name


def gmac(model: onnx.ModelProto) -> float:
    """Multiply-accumulates of all convolutions for one image, in units of 1e9."""
    return sum(gmac_by_layer(model).values())


def gmac_by_layer(model: onnx.ModelProto) -> dict[str, float]:
    """Multiply-accumulates of each convolution of a float graph for one image, in units of 1e9."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.output, *graph.input)
    }
    shapes |= {i.name: list(i.dims) for i in graph.initializer}
    # A weight is O x I/group x kh x kw: each output value costs the product of the last three.
    return {
        layer_name(node): math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:]) / 1e9
        for node in convolutions(model)
    }
