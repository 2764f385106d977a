"""Equalization: the graph computes the same with other channel scales, and they are closer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_ad_converters.equalize import equalize
from edge_ad_converters.graph import convolutions, differences, results
from edge_ad_converters.ranges import Statistics, observe
from tests.conversion.graphs import float_graph, maps, photographs, unoptimized_maps
from tests.conversion.test_fuse import deviation, photograph


def made_up(model: onnx.ModelProto, seed: int) -> dict[str, Statistics]:
    """Reaches over two decades, some channels dead, whatever the graph really does: it must not matter."""
    generator = np.random.default_rng(seed)
    weights = {i.name: i for i in model.graph.initializer}
    found = {}
    for node in convolutions(model):
        channels = weights[node.input[1]].dims[0]
        reach = np.exp(generator.uniform(-2.3, 2.3, channels))
        reach[generator.random(channels) < 0.05] = 0
        found[results(model)[node.output[0]]] = Statistics(
            0.0, float(reach.max()), reach, reach, reach[:1], np.zeros(1, np.int64)
        )
    return found


@pytest.mark.parametrize(
    ("size", "padded"),
    [("n", False), ("n", True), ("s", False)]
    + [pytest.param(*c, marks=pytest.mark.study) for c in (("s", True), ("m", False), ("m", True))],
)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_function_stays(size: str, padded: bool, strength: float) -> None:
    model = float_graph(size, padded)
    other = equalize(model, made_up(model, seed=int(10 * strength)), strength)
    for a, b in zip(maps(model, photograph()), maps(other, photograph()), strict=True):
        assert deviation(a, b) < 1e-4
    changed = [
        a.name
        for a, b in zip(model.graph.initializer, other.graph.initializer, strict=True)
        if a.raw_data != b.raw_data
    ]
    assert len(changed) >= 2 * (len(convolutions(model)) - 2)


def test_a_graph_for_symmetric_grids_too() -> None:
    model = float_graph(centred=True)
    other = equalize(model, made_up(model, seed=1), 1.0)
    for a, b in zip(maps(model, photograph()), unoptimized_maps(other, photograph()), strict=True):
        assert deviation(a, b) < 1e-4


def test_no_strength_changes_nothing() -> None:
    model = float_graph()
    assert equalize(model, made_up(model, seed=1), 0.0) == model


def test_channels_are_closer() -> None:
    """Measured on the images that gave the factors: at strength 1 all alike, at 0.75 a quarter of the spread."""
    model, images = float_graph(), photographs(2)
    names = [n for o, n in results(model).items() if o not in differences(model)]
    before = observe(model, list(results(model).values()), images)
    for strength, left in ((0.75, 0.25), (1.0, 0.0)):
        after = observe(equalize(model, before, strength), names, images)
        for name in names:
            reach = before[name].channel_reach
            # Channels that are nearly dead are not blown up all the way.
            alive = reach >= 0.01 * reach.max()
            wide = np.log(reach[alive]).std()
            assert alive.sum() > 1 and wide > 0.02
            left_over = np.log(after[name].channel_reach[alive]).std()
            assert left_over == pytest.approx(left * wide, abs=0.01 * wide)


def test_the_differences_keep_their_scale() -> None:
    """What is squared and averaged over the channels must not be rescaled, nor biases be forgotten."""
    model = float_graph()
    before = observe(model, list(results(model).values()), photographs(1))
    after = observe(equalize(model, before, 1.0), differences(model), photographs(1))
    for name in differences(model):
        np.testing.assert_allclose(after[name].channel_reach, before[name].channel_reach, rtol=1e-3)
        np.testing.assert_allclose(
            after[name].channel_mean, before[name].channel_mean, atol=1e-3 * before[name].high
        )


def test_the_original_is_left_alone() -> None:
    model = float_graph()
    before = [numpy_helper.to_array(i).copy() for i in model.graph.initializer]
    equalize(model, made_up(model, seed=2), 1.0)
    for array, initializer in zip(before, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(array, numpy_helper.to_array(initializer))
