"""The graph for OpenVINO: the same integers, which OpenVINO then really computes with; and half precision."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
from onnx import TensorProto, numpy_helper

from edge_ad_converters.graph import convolutions
from edge_ad_converters.openvino_graph import for_openvino
from edge_ad_converters.targets import in_half_precision, target_form
from edge_ad_runtime.engines import open_engine
from edge_ad_runtime.errors import InputError
from tests.conversion.agreement import MAPS, map_deviation
from tests.conversion.graphs import float_graph, maps, observed, photographs, quantized
from tests.conversion.test_fuse import deviation, photograph

# Convolutions of INT8 on the CPU need one of these; without them the plugin may choose other arithmetic.
_INTEGER_CPU = ("avx512_vnni", "avx_vnni", "amx_int8")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "padded"])
def int8(request: pytest.FixtureRequest) -> onnx.ModelProto:
    model = float_graph(padded=request.param)
    return quantized(model, observed(model, photographs(2)))


def integers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return {name: values for name, values in found.items() if values.dtype in (np.int8, np.int32, np.uint8)}


def test_the_integers_stay(int8: onnx.ModelProto) -> None:
    before, after = integers(int8), integers(for_openvino(int8))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


def test_every_pixel_value_is_the_same_integer(int8: onnx.ModelProto) -> None:
    """round(x / 1.0001) is x for 0 to 255: read from the graph itself, in onnxruntime."""
    prepared = for_openvino(int8)
    names = [
        n.output[0] for n in prepared.graph.node
        if n.op_type == "QuantizeLinear" and n.input[0].endswith(".real")
    ]  # fmt: skip
    assert len(names) in (1, 2)
    prepared.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in names
    )
    ramp = np.arange(256 * 256 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 256, 256, 3)
    session = open_session(prepared)
    for found in session.run(names, {"image": ramp}):
        np.testing.assert_array_equal(found[:, :3], ramp.transpose(0, 3, 1, 2))


def open_session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_maps_are_the_same_bit_by_bit(int8: onnx.ModelProto) -> None:
    for image in (photograph(), *photographs(1, seed=8)):
        for a, b in zip(maps(int8, image), maps(for_openvino(int8), image), strict=True):
            np.testing.assert_array_equal(a, b)


def test_openvino_computes_what_onnxruntime_does(int8: onnx.ModelProto) -> None:
    """Within the bound of :mod:`tests.conversion.agreement`, which says where the rest comes from."""
    encoded = target_form("openvino").encode(int8)
    engine = open_engine("openvino", encoded, "int8", 1)
    for image in (photograph(), *photographs(1, seed=8)):
        assert map_deviation(maps(int8, image), engine.run(image)) <= MAPS


def convolution_precisions(model: onnx.ModelProto) -> list[str]:
    """Of each convolution as OpenVINO's CPU plugin runs it, in the settings of the engine."""
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(io.BytesIO(model.SerializeToString())),
        "CPU",
        {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"},
    )
    found = []
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if str(info["layerType"].astype(str)) == "Convolution":
            found.append(str(info["runtimePrecision"].astype(str)).lower())
    return found


def has_integer_dot_products() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(flag in flags for flag in _INTEGER_CPU)


@pytest.mark.skipif(not has_integer_dot_products(), reason="this CPU has no INT8 dot products")
def test_openvino_runs_every_convolution_in_integers(int8: onnx.ModelProto) -> None:
    count = len(convolutions(int8))
    prepared = convolution_precisions(for_openvino(int8))
    assert len(prepared) == count
    assert set(prepared) <= {"i8", "u8"}
    # What this is for: as the graph was, the convolutions that read the image ran in float.
    assert "f32" in convolution_precisions(int8)


def test_a_float_graph_stays_as_it_is() -> None:
    model = float_graph()
    assert for_openvino(model) == model


# Half precision


def test_half_precision_halves_the_weights_and_nothing_else() -> None:
    model = float_graph()
    half = in_half_precision(model)
    assert len(half.SerializeToString()) < 0.55 * len(model.SerializeToString())
    kinds = {i.name: i.data_type for i in half.graph.initializer}
    for node in convolutions(model):
        assert kinds[f"{node.input[1]}.half"] == TensorProto.FLOAT16
        assert kinds[node.input[2]] == TensorProto.FLOAT
    # Half a unit in the last of 11 digits, relative to each weight.
    for a, b in zip(maps(model, photograph()), maps(half, photograph()), strict=True):
        assert 0 < deviation(a, b) < 5e-3


def test_half_precision_in_openvino_is_close() -> None:
    model = float_graph()
    engine = open_engine("openvino", target_form("openvino").encode(in_half_precision(model)), "fp16", 1)
    for a, b in zip(maps(model, photograph()), engine.run(photograph()), strict=True):
        assert deviation(a, b) < 2e-2


@pytest.mark.parametrize("spoil", [lambda w: w * 1e8, lambda w: w * np.nan, lambda w: w + np.inf])
def test_weights_beyond_half_precision_are_refused(spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(float_graph())
    name = convolutions(model)[3].input[1]
    for initializer in model.graph.initializer:
        if initializer.name == name:
            values = spoil(numpy_helper.to_array(initializer)).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(values, name))
    with pytest.raises(InputError, match=f"{name} do not fit float16"):
        in_half_precision(model)
