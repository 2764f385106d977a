"""Reading the fused ONNX graph."""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import TensorProto

# These move or average values without making larger ones.
PASSING = ("AveragePool", "Resize", "Pad", "Concat", "Slice")


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions in the order of execution."""
    return [n for n in model.graph.node if n.op_type == "Conv"]


def layer_name(convolution: onnx.NodeProto) -> str:
    """The name by which reports call a convolution: its weight's, without the suffix."""
    return str(convolution.input[1]).removesuffix(".weight")


def results(model: onnx.ModelProto) -> dict[str, str]:
    """For each convolution's output the tensor that stands for its result: after its ReLU if it has one."""
    users = consumers(model)
    found = {}
    for node in convolutions(model):
        following = users[node.output[0]]
        relu = len(following) == 1 and following[0].op_type == "Relu"
        found[node.output[0]] = following[0].output[0] if relu else node.output[0]
    return found


def differences(model: onnx.ModelProto) -> list[str]:
    """The outputs of the convolutions that are squared: T - S and A - S."""
    return [n.input[0] for n in model.graph.node if n.op_type == "Mul" and n.input[0] == n.input[1]]


def image_tensors(model: onnx.ModelProto) -> set[str]:
    """The uint8 image and what is made of it before the cast to float."""
    found = {i.name for i in model.graph.input}
    found |= {i.name for i in model.graph.initializer if i.data_type == TensorProto.UINT8}
    for node in model.graph.node:
        if node.op_type in ("Transpose", "Concat") and all(name in found for name in node.input):
            found.update(node.output)
    return found


def activations(model: onnx.ModelProto) -> list[str]:
    """The float tensors that INT8 rounds: results of convolutions and of what moves them."""
    after = results(model)
    image = image_tensors(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            found.append(after[node.output[0]])
        elif node.op_type in PASSING and node.output[0] not in image:
            found.append(node.output[0])
    return found


def parts(model: onnx.ModelProto) -> dict[str, str]:
    """Which part of the networks each of :func:`activations` belongs to.

    ``features``: what the first difference reads, directly or joined, and the differences themselves; ``trunk``:
    what leads there; ``autoencoder``: the rest.
    """
    head = differences(model)[0]
    producers = {output: n for n in model.graph.node for output in n.output}
    found = dict.fromkeys(activations(model), "autoencoder")
    found.update(dict.fromkeys(differences(model), "features"))
    waiting = [(name, "features") for name in producers[head].input[:1]]
    while waiting:
        name, part = waiting.pop()
        if name not in producers:
            continue
        node = producers[name]
        if name in found:
            found[name] = part
        # What a convolution reads lies one stage further up; a ReLU or a concatenation belongs to its result.
        waiting += [
            (n, "trunk" if node.op_type == "Conv" else part) for n in node.input[: _data_inputs(node)]
        ]
    return found


def _data_inputs(node: onnx.NodeProto) -> int:
    return len(node.input) if node.op_type == "Concat" else 1


def with_outputs(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """A copy of the model that also returns float ``tensors``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {o.name for o in copy.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in tensors
        if name not in present
    )
    return copy
