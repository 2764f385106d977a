"""The targets: what each engine's model file is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_ad_converters.onnx_qdq import Scheme
from edge_ad_converters.openvino_graph import for_openvino
from edge_ad_converters.tensorrt_graph import for_tensorrt
from edge_ad_converters.tensorrt_rules import check_tensorrt
from edge_ad_converters.tflite import write_tflite
from edge_ad_runtime.engines import PRECISIONS, Precision, Target
from edge_ad_runtime.errors import InputError


@dataclass(frozen=True)
class TargetForm:
    """How a fused graph becomes a target's file.

    ``scheme`` is the kind of INT8 grid it needs, ``encode`` writes a float or QDQ graph (of that scheme) as
    the file ``file``; ``precisions`` are those that its engine has arithmetic for.
    """

    file: str
    scheme: Scheme
    precisions: tuple[Precision, ...]
    encode: Callable[[onnx.ModelProto], bytes]

    @property
    def centred(self) -> bool:
        """Whether the graph subtracts 128 from the image."""
        return self.scheme == "symmetric"


def target_form(target: Target) -> TargetForm:
    """The form of a target's file."""
    if target == "ort":
        return TargetForm("model.onnx", "asymmetric", ("fp32", "int8"), _encode_onnx)
    if target == "openvino":
        return TargetForm("model.onnx", "asymmetric", PRECISIONS, _encode_openvino)
    if target == "tflite":
        return TargetForm("model.tflite", "asymmetric", ("fp32", "int8"), write_tflite)
    return TargetForm("model.onnx", "symmetric", PRECISIONS, _encode_tensorrt)


def in_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph with the weights of its convolutions stored as float16 (and cast back: engines fold that)."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    casts = []
    for initializer in result.graph.initializer:
        if initializer.data_type == TensorProto.FLOAT and len(initializer.dims) == 4:
            name, values = initializer.name, numpy_helper.to_array(initializer)
            if not np.abs(values).max() < np.finfo(np.float16).max:
                raise InputError(
                    f"the weights {name} do not fit float16; convert with --precision fp32 or int8"
                )
            initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(
                helper.make_node("Cast", [f"{name}.half"], [name], f"{name}:Cast", to=TensorProto.FLOAT)
            )
    nodes = [*casts, *result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result)
    return result


def _encode_onnx(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def _encode_openvino(model: onnx.ModelProto) -> bytes:
    return _encode_onnx(for_openvino(model))


def _encode_tensorrt(model: onnx.ModelProto) -> bytes:
    written = for_tensorrt(model)
    if broken := check_tensorrt(written):
        raise InputError("TensorRT would not take the graph: " + "; ".join(broken))
    return _encode_onnx(written)
