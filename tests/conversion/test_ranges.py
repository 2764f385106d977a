"""Statistics of activations and the ranges made of them, on distributions whose answer is known."""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_converters.graph import activations, convolutions
from edge_ad_converters.ranges import (
    BINS,
    RANGE_METHODS,
    TAIL,
    Observer,
    RangeMethod,
    Statistics,
    find_range,
    observe,
)
from tests.conversion.graphs import float_graph, photographs

Values = npt.NDArray[np.float64]


def statistics(values: Values) -> Statistics:
    """Of a tensor of one channel on one image."""
    low, high = float(values.min()), float(values.max())
    counts = np.histogram(values, BINS, (low, high))[0] if high > low else np.zeros(BINS, np.int64)
    mean, reach = np.asarray([values.mean()]), np.asarray([np.abs(values).max()])
    return Statistics(low, high, mean, reach, reach, counts)


def evenly(count: int) -> Values:
    """The middles of ``count`` equal parts of 0 to 1: a uniform sample without noise."""
    return (np.arange(count) + 0.5) / count


def laplace(count: int) -> Values:
    """A sample of the Laplace distribution of scale 1 by its quantile function."""
    p = evenly(count) - 0.5
    values: Values = -np.sign(p) * np.log1p(-2 * np.abs(p))
    return values


def mean_square(values: Values, low: float, high: float) -> float:
    """What an 8-bit grid really does to the values."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    rounded = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    return float(np.mean((rounded - values) ** 2))


def test_observe_is_numpy_over_the_same_images() -> None:
    model = float_graph()
    tensors = [activations(model)[0], convolutions(model)[-1].input[0], activations(model)[-1]]
    images = photographs(3)
    found = observe(model, [*tensors, tensors[0]], images[:2], images[2:])
    assert list(found) == tensors
    observer = Observer(model, tensors)
    seen = [observer.values(image) for image in images]
    for name in tensors:
        values = np.stack([s[name][0] for s in seen]).astype(np.float64)
        statistic = found[name]
        assert (statistic.low, statistic.high) == (values.min(), values.max())
        reach = np.abs(values).max((2, 3))
        np.testing.assert_allclose(statistic.channel_reach, reach.mean(0))
        # Damaged images widen ranges but say nothing of the mean.
        np.testing.assert_allclose(statistic.channel_mean, values[:2].mean((0, 2, 3)), atol=1e-9)
        np.testing.assert_allclose(statistic.image_reach, reach[:2].max(1))
        assert statistic.histogram.shape == (BINS,)
        cells = values[0].size
        stride = max(1, cells // 50_000)
        sample = values.reshape(3, -1)[:, ::stride].ravel()
        expected = np.histogram(sample, BINS, (statistic.low, statistic.high))[0]
        assert statistic.histogram.sum() == sample.size
        # A value on the border of two bins may be counted in either.
        assert np.abs(statistic.histogram - expected).sum() <= 1e-3 * sample.size


def test_damaged_images_widen_the_range() -> None:
    model, images = float_graph(), photographs(2)
    white = np.full_like(images[0], 255)
    white[:, ::2] = 0
    name = activations(model)[0]
    plain, wide = observe(model, [name], images)[name], observe(model, [name], images, [white])[name]
    assert max(wide.high, -wide.low) > max(plain.high, -plain.low)
    np.testing.assert_array_equal(plain.channel_mean, wide.channel_mean)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (0.5, 2.0), (-3.0, -1.0)])
def test_min_max_is_all_that_was_seen_and_zero(low: float, high: float) -> None:
    values = low + (high - low) * np.linspace(0, 1, 1000)
    assert find_range(statistics(values), "min-max") == (min(low, 0.0), max(high, 0.0))


def test_percentile_cuts_its_tail_off_a_uniform_distribution() -> None:
    low, high = find_range(statistics(2 * evenly(1_000_000) - 1), "percentile")
    bin_ = 2 / BINS
    assert low == pytest.approx(-1 + 2 * TAIL, abs=bin_)
    assert high == pytest.approx(1 - 2 * TAIL, abs=bin_)


def test_percentile_of_a_laplace_distribution() -> None:
    """A share t lies above log(1 / 2t)."""
    values = laplace(1_000_000)
    low, high = find_range(statistics(values), "percentile")
    expected = np.log(1 / (2 * TAIL))
    bin_ = 2 * values.max() / BINS
    assert high == pytest.approx(expected, abs=2 * bin_)
    assert low == pytest.approx(-expected, abs=2 * bin_)


def test_percentile_leaves_single_outliers_out() -> None:
    values = np.concatenate((evenly(100_000), [1000.0]))
    low, high = find_range(statistics(values), "percentile")
    # Outside of it lie whole bins, and one bin is a quarter here.
    assert low == 0 and 1 - 2 * TAIL <= high <= 1 + 1000 / BINS


def test_mse_of_a_laplace_distribution() -> None:
    """Its best 8-bit range is 9.89 scales (R. Banner et al., Post Training 4-bit Quantization, section 3)."""
    values = laplace(4_000_000)
    low, high = find_range(statistics(values), "mse")
    tried = values.max() * 0.8 / 79
    assert high == pytest.approx(9.89, abs=1.5 * tried)
    assert low == pytest.approx(-high)


@pytest.mark.parametrize("method", get_args(RangeMethod))
def test_nothing_of_a_uniform_distribution_is_worth_clipping(method: RangeMethod) -> None:
    low, high = find_range(statistics(evenly(200_000) * 4 - 1), method)
    assert low == pytest.approx(-1, rel=0.03)
    assert high == pytest.approx(3, rel=0.03)


def test_mse_weighs_an_outlier_against_the_rounding_of_all() -> None:
    """One of n values at m: (m - a)^2 / n + a^2 / (12 * 255^2) is least at a = m / (1 + n / (12 * 255^2))."""
    values = np.abs(np.random.default_rng(0).normal(0, 1, 200_000))
    values[0] = 12.0
    low, high = find_range(statistics(values), "mse")
    assert low == 0
    assert high == pytest.approx(12 / (1 + 200_000 / (12 * 255**2)), abs=12 * 0.8 / 79)
    assert mean_square(values, low, high) < mean_square(values, 0, 12)


def test_entropy_leaves_a_rare_outlier_out() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 1, 200_000))
    values[0] = 12.0
    low, high = find_range(statistics(values), "entropy")
    assert low == 0
    assert 3 < high < 9


def test_mse_is_really_the_least_of_those_tried() -> None:
    """By quantizing the values themselves, which the method only estimates from their histogram."""
    generator = np.random.default_rng(1)
    values = np.maximum(generator.standard_t(4, 50_000), 0)
    _, high = find_range(statistics(values), "mse")
    best = min(mean_square(values, 0, share * values.max()) for share in np.linspace(0.2, 1, 80))
    assert mean_square(values, 0, high) <= 1.05 * best
    assert high < values.max()


@pytest.mark.parametrize("method", RANGE_METHODS)
def test_a_tensor_that_is_constant(method: RangeMethod) -> None:
    assert find_range(statistics(np.zeros(10)), method) == (0, 0)
    assert find_range(statistics(np.full(10, 2.0)), "min-max") == (0, 2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(RANGE_METHODS),
    offset=st.floats(-3, 3),
    tail=st.floats(0.5, 4),
    exponent=st.integers(-8, 8),
)
def test_ranges_hold_zero_stay_within_what_was_seen_and_scale(
    seed: int, method: RangeMethod, offset: float, tail: float, exponent: int
) -> None:
    generator = np.random.default_rng(seed)
    values = np.sign(draw := generator.normal(0, 1, 3000)) * np.abs(draw) ** tail + offset
    low, high = find_range(statistics(values), method)
    assert low <= 0 <= high and low < high
    assert low >= min(0.0, values.min()) and high <= max(0.0, values.max())
    # A power of two changes no digit: the range of scaled values is the scaled range.
    scale = 2.0**exponent
    scaled = find_range(statistics(values * scale), method)
    np.testing.assert_allclose(scaled, (low * scale, high * scale), rtol=1e-9)
