"""The search for the INT8 graph, and the parts that it is made of: measured in onnxruntime on a random net."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edge_ad_converters.bias import correct_differences
from edge_ad_converters.graph import activations, convolutions, differences, layer_name, parts
from edge_ad_converters.int8 import LARGEST_HEADROOM, MARGIN, CalibrationSets, Int8Search
from edge_ad_converters.onnx_qdq import Scheme
from edge_ad_converters.parity import FAR_ABOVE, MapError
from edge_ad_converters.ranges import Observer, RangeMethod
from edge_ad_converters.stress import stress_images
from edge_ad_runtime.engines import RawMaps, open_engine
from edge_ad_runtime.types import FloatArray, Image
from tests.conversion.graphs import float_graph, maps, observed, photographs, quantized, unoptimized_maps

METHODS: tuple[RangeMethod, ...] = ("min-max", "percentile")


def calibration_sets() -> CalibrationSets:
    good, held_out = photographs(2, seed=1), photographs(1, seed=2)
    return CalibrationSets(good, stress_images(good[:1], 3), held_out, stress_images(held_out, 4))


@pytest.fixture(scope="module")
def search() -> Int8Search:
    return Int8Search(float_graph(), calibration_sets(), "asymmetric", METHODS)


# The search


def test_the_best_has_the_smallest_error(search: Int8Search) -> None:
    errors = [c.error for c in search.candidates]
    assert errors == sorted(errors) and len(set(errors)) > 1
    assert search.best == search.candidates[0]
    # Each method for all parts with and without equalization, then each part by itself.
    whole = {(next(iter(c.methods.values())), c.equalization) for c in search.candidates if same(c.methods)}
    assert whole == {(m, e) for m in METHODS for e in (0.0, 0.75)}
    assert len(search.candidates) == 4 + 3
    for candidate in search.candidates:
        assert set(candidate.methods) == {"features", "trunk", "autoencoder"}
        assert candidate.error == candidate.good_error + candidate.lost
        assert 0 < candidate.good_error < 1 and 0 <= candidate.lost <= 1
        assert ("equalized" in candidate.label) == (candidate.equalization > 0)


def same(methods: object) -> bool:
    assert isinstance(methods, dict)
    return len(set(methods.values())) == 1


def test_the_built_graph_is_as_good_as_the_search_says(search: Int8Search) -> None:
    """Its error, measured here anew; the correction of the differences moves means only, which cost nothing."""
    built = search.build()
    measured = []
    for image in search.sets.held_out:
        for a, b in zip(maps(search.model, image), maps(built, image), strict=True):
            measured.append(float((b - a).std() / a.std()))
    assert float(np.mean(measured)) == pytest.approx(search.best.good_error, rel=0.15)
    assert len([n for n in built.graph.node if n.op_type == "Conv"]) == len(convolutions(search.model))


def test_headroom_lies_within_its_bounds_and_holds_the_damage(search: Int8Search) -> None:
    assert MARGIN - 1e-6 <= search.headroom <= LARGEST_HEADROOM + 1e-6
    built = search.build()
    values = {i.name: numpy_helper.to_array(i) for i in built.graph.initializer}
    for name in differences(search.model):
        scale, zero = float(values[f"{name}.scale"]), int(values[f"{name}.zero"])
        statistics = search.statistics[name]
        reach = max(-statistics.low, statistics.high)
        good = float(statistics.image_reach.max())
        end = max(zero, 255 - zero) * scale
        assert end == pytest.approx(min(MARGIN * reach, LARGEST_HEADROOM * good), abs=1.01 * scale)


def test_sensitivity_names_every_layer_the_most_sensitive_first(search: Int8Search) -> None:
    found = search.sensitivity
    assert [s.error for s in found] == sorted((s.error for s in found), reverse=True)
    assert {s.layer for s in found} == {layer_name(n) for n in convolutions(search.model)}
    assert sum(s.gmac_share for s in found) == pytest.approx(1)
    # One layer alone hurts less than all together, and some much less than others.
    assert 0 < found[0].error < search.best.good_error * 1.1
    assert found[-1].error < 0.5 * found[0].error
    mended = search.build([s.layer for s in found[:4]])
    engine = open_engine("ort", mended.SerializeToString(), "int8", 1)
    reference = open_engine("ort", search.model.SerializeToString(), "fp32", 1)
    assert MapError(reference, search.sets.held_out).of(engine) < search.best.good_error


def test_the_largest_relief_is_first(search: Int8Search) -> None:
    assert set(search.relief) == set(search.shares)
    reference = open_engine("ort", search.model.SerializeToString(), "fp32", 1)
    error = MapError(reference, search.sets.held_out)
    first, last = (
        error.of(open_engine("ort", search.build([name]).SerializeToString(), "int8", 1))
        for name in (search.relief[0], search.relief[-1])
    )
    assert first < last


def test_progress_is_told_and_a_search_can_be_repeated(search: Int8Search) -> None:
    said: list[str] = []
    again = Int8Search(float_graph(), calibration_sets(), "asymmetric", ("min-max",), said.append)
    assert len(again.candidates) == 2
    for candidate in again.candidates:
        assert candidate in search.candidates
    assert any("min-max" in word for word in said) and any("equalized" in word for word in said)


def test_parts_of_the_networks() -> None:
    model = float_graph()
    found = parts(model)
    assert set(found) == set(activations(model))
    head_st, head_ae = differences(model)
    assert found[head_st] == found[head_ae] == "features"
    produced = {o: n for n in model.graph.node for o in n.output}
    joined = produced[produced[head_st].input[0]]
    assert joined.op_type == "Concat" and {found[n] for n in joined.input} == {"features"}
    for node in convolutions(model):
        relu = next((n.output[0] for n in model.graph.node if n.input[0] == node.output[0]), "")
        part = found.get(relu) or found[node.output[0]]
        if layer_name(node).startswith(("encoder", "steps")):
            assert part == "autoencoder"
        elif layer_name(node).startswith("trunk"):
            assert part == "trunk"


# Layers in float


def test_a_float_layer_between_integers_is_not_rounded_by_onnxruntime() -> None:
    """One channel, dead behind its ReLU, has weights a thousand times as large as the others.

    Rounded with one scale for the whole kernel, as onnxruntime's optimizer does on its own, the others vanish.
    """
    model = onnx.ModelProto()
    model.CopyFrom(float_graph())
    node = next(n for n in convolutions(model) if layer_name(n) == "trunk.layers.3")
    constants = {i.name: i for i in model.graph.initializer}
    weight, bias = (numpy_helper.to_array(constants[n]).copy() for n in node.input[1:])
    weight[0], bias[0] = 1000 * np.abs(weight).max(), -1e9
    for name, values in zip(node.input[1:], (weight, bias), strict=True):
        constants[name].CopyFrom(numpy_helper.from_array(values, name))
    image = photographs(1)[0]
    mixed = quantized(model, observed(model, [image]), in_float=[layer_name(node)])
    wanted = unoptimized_maps(mixed, image).st
    ours = maps(mixed, image).st
    options = ort.SessionOptions()
    options.log_severity_level = 3
    default = ort.InferenceSession(mixed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    theirs = default.run(["map_st"], {"image": image})[0][0]
    error = float((ours - wanted).std() / wanted.std())
    rounded = float((theirs - wanted).std() / wanted.std())
    assert error < 0.05
    assert rounded > 20 * error, "onnxruntime no longer rounds such weights; the engine need not disable it"


# Bias correction


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
def test_bias_correction_takes_the_means_error_back(scheme: Scheme) -> None:
    model = float_graph(centred=scheme == "symmetric")
    images = photographs(2, seed=6)
    plain = quantized(model, observed(model, images[:1]), scheme)
    corrected = correct_differences(plain, model, images)
    wanted = means(model, images)
    before, after = (np.abs(means(m, images) - wanted) for m in (plain, corrected))
    assert after.mean() < 0.25 * before.mean()
    # Nothing but the biases of the two differences moved.
    changed = [
        a.name
        for a, b in zip(plain.graph.initializer, corrected.graph.initializer, strict=True)
        if a.raw_data != b.raw_data
    ]
    assert 1 <= len(changed) <= 2 and all("difference" in n and "bias" in n for n in changed)
    assert plain.graph.node == corrected.graph.node


def means(model: onnx.ModelProto, images: Sequence[Image]) -> np.ndarray:
    """Of each channel of the differences before they are rounded."""
    produced = {o: n for n in model.graph.node for o in n.output}
    names = []
    for name in differences(model):
        while produced[name].op_type != "Conv":
            name = produced[name].input[0]
        names.append(name)
    observer = Observer(model, names)
    values = [observer.values(image) for image in images]
    return np.concatenate([np.mean([v[n].mean((0, 2, 3)) for v in values], axis=0) for n in names])


# What a search measures by


class Given:
    """An engine that returns the maps that it was given, image by image."""

    name = "given"

    def __init__(self, *maps_: RawMaps) -> None:
        self._maps, self._next = maps_, 0

    def run(self, batch: Image) -> RawMaps:
        self._next += 1
        return self._maps[(self._next - 1) % len(self._maps)]


def raw(seed: int, scale: float = 1.0) -> RawMaps:
    generator = np.random.default_rng(seed)
    st, ae = generator.random((2, 20, 20), np.float32) * np.float32(scale)
    return RawMaps(st, ae)


def changed(maps_: RawMaps, change: object) -> RawMaps:
    assert callable(change)
    st, ae = (np.asarray(change(m), np.float32) for m in maps_)
    return RawMaps(st, ae)


def test_map_error_is_the_share_of_the_deviation_that_is_lost() -> None:
    reference = [raw(0), raw(1, 100)]
    images = photographs(1) * 2
    error = MapError(Given(*reference), images)
    assert error.of(Given(*reference)) == 0
    assert error.of(Given(*(changed(m, lambda x: x + 7) for m in reference))) == pytest.approx(0, abs=1e-4)
    assert error.of(Given(*(changed(m, lambda x: 1.25 * x) for m in reference))) == pytest.approx(
        0.25, rel=1e-4
    )
    assert error.of(Given(*(changed(m, np.zeros_like) for m in reference))) == pytest.approx(1, rel=1e-4)
    assert error.highest == tuple(max(float(m[i].max()) for m in reference) for i in (0, 1))


def test_lost_damage_is_what_saturates_away() -> None:
    def spotted(height: float) -> FloatArray:
        """Ten cells far above normal, the others normal."""
        found = np.ones((10, 10), np.float32)
        found[0] = height
        return found

    normal = (1.0, 1.0)
    reference = RawMaps(spotted(10 * FAR_ABOVE), spotted(1))
    error = MapError(Given(reference), photographs(1))
    assert error.lost(Given(reference), normal) == 0
    # How far beyond it lies is not asked, but it must stay far above normal.
    assert error.lost(Given(RawMaps(spotted(FAR_ABOVE), spotted(1))), normal) == 0
    assert error.lost(Given(RawMaps(spotted(FAR_ABOVE / 2), spotted(1))), normal) == 1
    half = spotted(10 * FAR_ABOVE)
    half[0, :5] = 1
    assert error.lost(Given(RawMaps(half, spotted(1))), normal) == 0.5
    nowhere = MapError(Given(RawMaps(spotted(1), spotted(1))), photographs(1))
    assert nowhere.lost(Given(RawMaps(spotted(0), spotted(0))), normal) == 0


# Damage


def test_stress_images_are_repeatable_and_leave_the_good_ones_alone() -> None:
    good = photographs(3)
    kept = [image.copy() for image in good]
    first, again, other = (stress_images(good, seed) for seed in (5, 5, 6))
    for a, b in zip(good, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    for image, a, b, c in zip(good, first, again, other, strict=True):
        assert a.shape == image.shape and a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_stress_images_hold_every_kind_of_damage() -> None:
    # Grey, so that black, white and noise are told apart; another grey elsewhere.
    good = [np.full((1, 256, 256, 3), level, np.uint8) for level in (100, 60)]
    damaged = np.stack(stress_images(good, seed=0))
    touched = damaged != np.stack(good)
    for image in touched:
        assert 0.01 < image.mean() < 0.45
    values = set(np.unique(damaged[0]))
    assert {0, 255, 155, 60} <= values, "black, white, inverted, and the other image"
    assert len(values) > 100, "noise"


def test_a_single_image_is_enough_for_damage() -> None:
    damaged = stress_images(photographs(1), seed=1)
    assert len(damaged) == 1
