"""A QDQ graph in the form that OpenVINO runs fastest; its integers stay the same."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# OpenVINO removes a dequantization by 1 as an identity and then runs the convolutions that read the image in
# float. At this step, round(x / step) is still x for 0 to 255.
_STEP = 1.0001


def for_openvino(model: onnx.ModelProto) -> onnx.ModelProto:
    """The QDQ graph of the scheme ``asymmetric`` with an image whose quantization OpenVINO does not remove.

    The image is cast, quantized and dequantized with a step a little above 1, and the weights that meet it are
    divided by that step; the same integers are multiplied and added.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {i.name: i for i in result.graph.initializer}
    produced = {output: n for n in result.graph.node for output in n.output}
    entries = [
        n
        for n in result.graph.node
        if n.op_type == "DequantizeLinear"
        and n.input[0] not in constants
        and produced[n.input[0]].op_type != "QuantizeLinear"
    ]
    if not entries:
        return result
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        if node in entries:
            output, (integers, scale, zero) = node.output[0], node.input
            constants[scale].CopyFrom(numpy_helper.from_array(np.asarray(_STEP, np.float32), scale))
            nodes += [
                helper.make_node(
                    "Cast", [integers], [f"{output}.real"], f"{output}:Cast", to=TensorProto.FLOAT
                ),
                helper.make_node(
                    "QuantizeLinear", [f"{output}.real", scale, zero], [f"{output}.quantized"], f"{output}:Q"
                ),
                helper.make_node(
                    "DequantizeLinear", [f"{output}.quantized", scale, zero], [output], f"{output}:DQ"
                ),
            ]
        else:
            nodes.append(node)
    images = {n.output[0] for n in entries}
    for node in nodes:
        if node.op_type == "Conv" and node.input[0] in images and node.input[1] in produced:
            scale = produced[node.input[1]].input[1]
            divided = numpy_helper.to_array(constants[scale]) / np.float32(_STEP)
            constants[scale].CopyFrom(numpy_helper.from_array(divided, scale))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result)
    return result
