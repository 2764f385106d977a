"""INT8 in QDQ form: that the graph is what it claims, and that it computes nearly the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edge_ad_converters.graph import convolutions, layer_name, with_outputs
from edge_ad_converters.onnx_qdq import Scheme
from edge_ad_runtime.types import Image
from tests.conversion.graphs import Observed, float_graph, maps, observed, photographs, quantized
from tests.conversion.test_fuse import deviation, photograph

SCHEMES: tuple[Scheme, ...] = ("asymmetric", "symmetric")
Values = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    noise = np.random.default_rng(1).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    return [photograph(), noise]


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    found: Scheme = request.param
    return found


@pytest.fixture(scope="module")
def model(scheme: Scheme) -> onnx.ModelProto:
    return float_graph(centred=scheme == "symmetric")


@pytest.fixture(scope="module")
def seen(model: onnx.ModelProto, images: list[Image]) -> Observed:
    return observed(model, images)


@pytest.fixture(scope="module")
def int8(model: onnx.ModelProto, seen: Observed, scheme: Scheme) -> onnx.ModelProto:
    return quantized(model, seen, scheme)


def values_of(model: onnx.ModelProto) -> Values:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def optimized_operators(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What onnxruntime makes of a graph, with the optimizer disabled that the engine disables."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["WeightBiasQuantization"],
    )
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(
    ("size", "padded", "pools"),
    [
        ("n", False, 2),
        ("s", False, 3),
        pytest.param("n", True, 2, marks=pytest.mark.study),
        pytest.param("s", True, 3, marks=pytest.mark.study),
        pytest.param("m", False, 3, marks=pytest.mark.study),
        pytest.param("m", True, 3, marks=pytest.mark.study),
    ],
)
def test_every_convolution_runs_in_integers(size: str, padded: bool, pools: int, tmp_path: Path) -> None:
    model = float_graph(size, padded)
    operators = optimized_operators(quantized(model, observed(model, [photograph()])), tmp_path)
    assert operators["QLinearConv"] == len(convolutions(model))
    assert operators["Conv"] == operators["FusedConv"] == 0
    assert operators["QLinearAveragePool"] == pools


def test_the_image_enters_without_loss(int8: onnx.ModelProto, scheme: Scheme) -> None:
    """Every convolution that reads the image gets each of its pixels exactly, a value of 0 to 255 or less 128."""
    values = values_of(int8)
    produced = {o: n for n in int8.graph.node for o in n.output}
    entries = {
        n.input[0] for n in convolutions(int8)
        if produced[n.input[0]].op_type == "DequantizeLinear"
        and values[produced[n.input[0]].input[1]] == 1.0 and values[produced[n.input[0]].input[2]] == 0
    }  # fmt: skip
    assert len(entries) == 2
    ramp = np.arange(256 * 256 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 256, 256, 3)
    session = ort.InferenceSession(
        with_outputs(int8, sorted(entries)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    shifted = ramp.transpose(0, 3, 1, 2).astype(np.float32) - (128 if scheme == "symmetric" else 0)
    for entering in session.run(sorted(entries), {"image": ramp}):
        np.testing.assert_array_equal(entering[:, :3], shifted)


def test_weights_are_symmetric_by_channel(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    values, original = values_of(int8), values_of(model)
    for node in convolutions(model):
        name = node.input[1]
        scale = values[f"{name}.scale"].astype(np.float64)
        assert values[f"{name}.quantized"].dtype == np.int8
        assert scale.shape == (original[name].shape[0],)
        assert not values[f"{name}.zero"].any()
        restored = values[f"{name}.quantized"] * scale[:, None, None, None]
        error = restored - original[name]
        assert (np.abs(error) <= scale[:, None, None, None] * 1.001).all()
        # Each kernel's sum is off by less than one step, not by the sum of its taps' roundings.
        assert (np.abs(error.sum((2, 3))) <= scale[:, None] * 0.51).all()


def test_activations_and_biases_are_of_the_scheme(int8: onnx.ModelProto, scheme: Scheme) -> None:
    values, produced = values_of(int8), {o: n for n in int8.graph.node for o in n.output}
    pairs = [n for n in int8.graph.node if n.op_type == "QuantizeLinear"]
    assert pairs
    for node in pairs:
        zero = values[node.input[2]]
        assert zero.dtype == (np.uint8 if scheme == "asymmetric" else np.int8)
        assert scheme == "asymmetric" or zero == 0
    for node in convolutions(int8):
        if scheme == "symmetric":
            assert values[node.input[2]].dtype == np.float32
            continue
        bias = produced[node.input[2]]
        assert values[bias.input[0]].dtype == np.int32
        product = values[produced[node.input[1]].input[1]] * values[produced[node.input[0]].input[1]]
        np.testing.assert_allclose(values[bias.input[1]].astype(float), product.astype(float), rtol=1e-6)


def test_grids_hold_the_ranges(model: onnx.ModelProto, int8: onnx.ModelProto, seen: Observed) -> None:
    values = values_of(int8)
    for name, (low, high) in seen.ranges.items():
        scale, zero = float(values[f"{name}.scale"]), int(values[f"{name}.zero"])
        first, last = (0, 255) if values[f"{name}.zero"].dtype == np.uint8 else (-127, 127)
        assert (first - zero) * scale <= low + 0.51 * scale
        assert (last - zero) * scale >= high - 0.51 * scale


def test_averages_have_a_grid_of_their_own(
    model: onnx.ModelProto, int8: onnx.ModelProto, seen: Observed
) -> None:
    values = values_of(int8)
    pools = [n for n in model.graph.node if n.op_type == "AveragePool"]
    assert len(pools) == 2
    for node in pools:
        own, source = (float(values[f"{n}.scale"]) for n in (node.output[0], node.input[0]))
        low, high = seen.ranges[node.output[0]]
        assert own < source
        levels = 255 if values[f"{node.output[0]}.zero"].dtype == np.uint8 else 127
        assert own == pytest.approx((high - low) / levels)


def test_what_moves_values_keeps_their_grid(model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    """An engine only moves integers where both sides have the same scale."""
    values = values_of(int8)
    joined = 0
    for node in model.graph.node:
        if node.op_type in ("Resize", "Pad", "Concat", "Slice") and f"{node.output[0]}.scale" in values:
            for name in node.input:
                if f"{name}.scale" in values:
                    joined += 1
                    for part in ("scale", "zero"):
                        assert values[f"{name}.{part}"] == values[f"{node.output[0]}.{part}"]
    assert joined >= 5


def test_maps_stay_close(model: onnx.ModelProto, scheme: Scheme) -> None:
    image = photograph()
    for a, b in zip(
        maps(model, image), maps(quantized(model, observed(model, [image]), scheme), image), strict=True
    ):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
        assert np.abs(a.mean() - b.mean()) < 0.05 * a.mean()


def test_rounding_the_weights_does_not_move_the_mean(
    model: onnx.ModelProto, int8: onnx.ModelProto, seen: Observed, scheme: Scheme
) -> None:
    """Bias correction: with the rounded weights the mean of each layer's output stays where it was."""
    original, values = values_of(model), values_of(int8)
    moved = 0.0
    for node in convolutions(model):
        _, weight, bias = node.input
        scale = values[f"{weight}.scale"].astype(np.float64)
        restored = values[f"{weight}.quantized"] * scale[:, None, None, None]
        if scheme == "symmetric":
            corrected, step = values[f"{bias}.corrected"].astype(np.float64), np.full(1, 1e-5)
        else:
            steps = values[f"{bias}.scale"].astype(np.float64)
            corrected, step = values[f"{bias}.quantized"] * steps, steps
        mean = seen.means[node.input[0]]
        before = original[weight].sum((2, 3), dtype=np.float64) @ mean + original[bias]
        after = restored.sum((2, 3)) @ mean + corrected
        assert (np.abs(after - before) <= step).all()
        uncorrected = restored.sum((2, 3)) @ mean + original[bias]
        moved = max(moved, float((np.abs(uncorrected - before) / step).max()))
    assert moved > 10, "without the correction some mean would have moved by many steps"


@pytest.mark.parametrize("which", [[0], [5], [-1], [3, 4], [0, 1, 2, -2]])
def test_layers_left_in_float_run_in_float(
    model: onnx.ModelProto, seen: Observed, scheme: Scheme, which: list[int], tmp_path: Path
) -> None:
    chosen = [layer_name(convolutions(model)[i]) for i in which]
    mixed = quantized(model, seen, scheme, chosen)
    values = values_of(mixed)
    original = values_of(model)
    for node in convolutions(mixed):
        name = node.input[1].removesuffix(".dequantized")
        in_float = name.removesuffix(".weight") in chosen
        assert (node.input[1] == name) == in_float
        if in_float:
            np.testing.assert_array_equal(values[name], original[name])
            np.testing.assert_array_equal(values[node.input[2]], original[node.input[2]])
        else:
            assert values[f"{name}.quantized"].dtype == np.int8
    if scheme == "asymmetric":
        operators = optimized_operators(mixed, tmp_path)
        assert operators["Conv"] + operators["FusedConv"] == len(chosen)
        assert operators["QLinearConv"] == len(convolutions(model)) - len(chosen)


def test_with_all_layers_in_float_nothing_is_rounded(
    model: onnx.ModelProto, seen: Observed, scheme: Scheme
) -> None:
    mixed = quantized(model, seen, scheme, [layer_name(n) for n in convolutions(model)])
    # Only the image keeps its integers, which lose nothing.
    rounded = [n for n in mixed.graph.node if n.op_type == "QuantizeLinear"]
    assert len(rounded) == (2 if scheme == "symmetric" else 0)
    for a, b in zip(maps(model, photograph()), maps(mixed, photograph()), strict=True):
        assert deviation(a, b) < 1e-6


def test_fewer_layers_in_integers_are_closer() -> None:
    """The heads and the trunk in float take error away."""
    model, image = float_graph(), photographs(1, seed=3)[0]
    seen = observed(model, [photograph()])
    names = [layer_name(n) for n in convolutions(model)]
    wanted = maps(model, image)
    errors = [
        float(np.mean([(b - a).std() / a.std() for a, b in zip(wanted, maps(mixed, image), strict=True)]))
        for mixed in (quantized(model, seen), quantized(model, seen, in_float=names[:2] + names[-2:]))
    ]
    assert errors[1] < 0.8 * errors[0]
