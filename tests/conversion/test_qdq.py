"""INT8: that the graph is what it claims, and that it computes nearly the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from edge_ad.describe import describe
from edge_ad.nets.model import normalize, to_tensor
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.onnx_qdq import DIFFERENCE_HEADROOM, quantize_onnx, tensors_to_observe
from edge_ad_converters.ranges import Statistics, observe
from tests.conversion.test_fuse import photograph, random_nets

Models = tuple[onnx.ModelProto, onnx.ModelProto, dict[str, Statistics]]


@pytest.fixture(scope="module")
def models() -> Models:
    model = export_onnx(fuse(describe(random_nets("n"))))
    noise = np.random.default_rng(1).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    statistics = observe(model, tensors_to_observe(model), [photograph(), noise])
    return model, quantize_onnx(model, statistics), statistics


@pytest.mark.parametrize(("size", "pools"), [("n", 2), ("s", 3), ("m", 3)])
def test_every_convolution_runs_in_integers(size: str, pools: int, tmp_path: Path) -> None:
    model = export_onnx(fuse(describe(random_nets(size))))
    quantized = quantize_onnx(model, observe(model, tensors_to_observe(model), [photograph()]))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    convolutions = sum(n.op_type == "Conv" for n in model.graph.node)
    assert operators["QLinearConv"] == convolutions
    assert operators["Conv"] == operators["FusedConv"] == 0
    assert operators["QLinearAveragePool"] == pools


def test_the_image_enters_without_loss(
    models: Models,
) -> None:
    _, quantized, _ = models
    values = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    produced = {o: n for n in quantized.graph.node for o in n.output}
    entries = [
        n for n in quantized.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in produced
        and produced[n.input[0]].op_type == "Transpose"
    ]  # fmt: skip
    assert len(entries) == 2
    for node in entries:
        assert values[node.input[1]] == 1.0
        assert values[node.input[2]] == 0


def test_weights_are_symmetric_by_channel(
    models: Models,
) -> None:
    model, quantized, _ = models
    values = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    original = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        name = node.input[1]
        scale = values[f"{name}.scale"]
        assert values[f"{name}.quantized"].dtype == np.int8
        assert scale.shape == (original[name].shape[0],)
        assert not values[f"{name}.zero"].any()
        restored = values[f"{name}.quantized"] * scale[:, None, None, None]
        error = restored - original[name]
        assert (np.abs(error) <= scale[:, None, None, None] * 1.001).all()
        # Each kernel's sum is off by less than one step, not by the sum of its taps' roundings.
        assert (np.abs(error.sum((2, 3))) <= scale[:, None] * 0.51).all()


def test_differences_have_headroom(models: Models) -> None:
    model, quantized, statistics = models
    values = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    squares = [n for n in model.graph.node if n.op_type == "Mul"]
    assert len(squares) == 2
    for node in squares:
        name = node.input[0]
        scale, zero = float(values[f"{name}.scale"]), int(values[f"{name}.zero"])
        reach = (-zero * scale, (255 - zero) * scale)
        assert reach[0] == pytest.approx(DIFFERENCE_HEADROOM * statistics[name].low, abs=scale)
        assert reach[1] == pytest.approx(DIFFERENCE_HEADROOM * statistics[name].high, abs=scale)


def test_maps_stay_close() -> None:
    """With the teacher normalized as training does it, so that the maps are not one large offset."""
    nets = random_nets("n")
    image = photograph()
    with torch.no_grad():
        raw = nets.teacher_raw(nets.trunk(normalize(to_tensor(image))))
        nets.teacher_mean.copy_(raw.mean((0, 2, 3)).view(1, -1, 1, 1))
        nets.teacher_std.copy_(raw.std((0, 2, 3)).view(1, -1, 1, 1))
    model = export_onnx(fuse(describe(nets)))
    quantized = quantize_onnx(model, observe(model, tensors_to_observe(model), [image]))
    runs = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"image": image}
        )
        for m in (model, quantized)
    ]
    for a, b in zip(*runs, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
        assert np.abs(a.mean() - b.mean()) < 0.05 * a.mean()


def test_rounding_the_weights_does_not_move_the_mean(models: Models) -> None:
    """Bias correction: with the rounded weights the mean of the first layer's output stays where it was."""
    model, quantized, statistics = models
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    weight, bias = (
        numpy_helper.to_array(i) for n in node.input[1:] for i in model.graph.initializer if i.name == n
    )
    values = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    restored = [
        values[f"{n}.quantized"]
        * values[f"{n}.scale"].reshape((-1,) + (1,) * (values[f"{n}.quantized"].ndim - 1))
        for n in node.input[1:]
    ]
    mean = statistics[node.input[0]].channel_mean
    before = weight.sum((2, 3)) @ mean + bias
    after = restored[0].sum((2, 3)) @ mean + restored[1]
    assert np.abs(after - before).max() <= values[f"{node.input[2]}.scale"].max()
