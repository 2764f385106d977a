"""The fused graphs for TensorRT: they keep its rules and compute what they did."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_ad.describe import describe
from edge_ad_converters.fuse import fuse
from edge_ad_converters.graph import activations, convolutions, layer_name
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.onnx_qdq import quantize_onnx
from edge_ad_converters.ranges import Observer
from edge_ad_converters.tensorrt_graph import for_tensorrt
from edge_ad_converters.tensorrt_rules import check_tensorrt
from edge_ad_runtime.errors import InputError
from tests.conversion.test_fuse import photograph, random_nets
from tests.conversion.test_tensorrt_rules import Small, run


def float_graph(size: str, padded: bool) -> onnx.ModelProto:
    return export_onnx(fuse(describe(random_nets(size, padded)), centred=True))


def quantized(model: onnx.ModelProto, in_float: Collection[str] = ()) -> onnx.ModelProto:
    names = [*activations(model), *(c.input[0] for c in convolutions(model))]
    values = Observer(model, names).values(photograph())
    return quantize_onnx(
        model,
        {n: (float(v.min()), float(v.max())) for n, v in values.items()},
        {n: v.mean((0, 2, 3), dtype=np.float64) for n, v in values.items()},
        scheme="symmetric",
        in_float=in_float,
    )


def check(model: onnx.ModelProto) -> None:
    """The model as it is breaks rules; prepared, it breaks none and gives the same maps."""
    assert check_tensorrt(model) != ()
    prepared = for_tensorrt(model)
    assert check_tensorrt(prepared) == ()
    for a, b in zip(run(model, photograph()), run(prepared, photograph()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    return float_graph("n", padded=False)


def test_float_graph(graph: onnx.ModelProto) -> None:
    check(graph)


def test_int8_graph(graph: onnx.ModelProto) -> None:
    model = quantized(graph)
    check(model)
    pairs = [n for n in for_tensorrt(model).graph.node if n.op_type == "QuantizeLinear"]
    assert sum(n.input[0].endswith(".quantized") for n in pairs) == len(convolutions(graph))


@pytest.mark.parametrize("which", [0, 5, -1])
def test_int8_graph_with_a_float_layer(graph: onnx.ModelProto, which: int) -> None:
    check(quantized(graph, [layer_name(convolutions(graph)[which])]))


@pytest.mark.study
@pytest.mark.parametrize(("size", "padded"), list(itertools.product("nsm", (False, True))))
def test_all_sizes(size: str, padded: bool) -> None:
    model = float_graph(size, padded)
    check(model)
    check(quantized(model))


def test_slices_to_the_end_fit_int32() -> None:
    """Sizes s and m cut the joined features with an end of the largest int64."""
    nodes = [helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"])]
    constants = {"starts": 2, "ends": np.iinfo(np.int64).max, "axes": 1}
    graph = helper.make_graph(
        nodes,
        "slice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array([v], np.int64), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert any("do not fit int32" in p for p in check_tensorrt(model))
    prepared = for_tensorrt(model)
    assert check_tensorrt(prepared) == ()
    (cut,) = run(prepared, np.arange(5, dtype=np.float32)[None], "x")
    assert cut.tolist() == [[2, 3, 4]]


def test_stored_weights_come_back_as_the_same_integers() -> None:
    """Every int8 value, at scales from tiny to large, survives the way through float and back."""
    values = np.tile(np.arange(-128, 128, dtype=np.int8), (400, 1))[:, :, None, None]
    scale = np.exp(np.random.default_rng(0).uniform(-30, 10, 400)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["w.dq"], axis=0),
        helper.make_node("Conv", ["x", "w.dq"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stored",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 256, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 400, 1, 1])],
        [
            numpy_helper.from_array(values, "w"),
            numpy_helper.from_array(scale, "scale"),
            numpy_helper.from_array(np.zeros(400, np.int8), "zero"),
        ],
    )
    prepared = for_tensorrt(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    )
    quantize = next(n for n in prepared.graph.node if n.op_type == "QuantizeLinear")
    prepared.graph.output.append(
        helper.make_tensor_value_info(quantize.output[0], TensorProto.INT8, list(values.shape))
    )
    _, restored = run(prepared, np.zeros((1, 256, 1, 1), np.float32), "x")
    np.testing.assert_array_equal(restored, values)


@pytest.mark.parametrize(
    ("attribute", "value"), [("antialias", 1), ("keep_aspect_ratio_policy", "not_larger"), ("axes", [2, 3])]
)
def test_what_opset_17_cannot_say_is_refused(attribute: str, value: object) -> None:
    small = Small()
    small.opset = 18
    small["large"].attribute.append(helper.make_attribute(attribute, value))
    with pytest.raises(InputError, match=f"opset 17 has no {attribute}"):
        for_tensorrt(small.model())
