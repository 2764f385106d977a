"""Whether calibration images do: the growth of reaches, how many would be enough, which are odd."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_converters.coverage import coverage
from edge_ad_converters.ranges import Statistics


def statistics(*reaches: list[float]) -> dict[str, Statistics]:
    """Of one tensor for each list, which holds its reach in each image."""
    found = {}
    for number, reach in enumerate(reaches):
        image_reach = np.asarray(reach, float)
        one = np.zeros(1)
        found[f"t{number}"] = Statistics(0, float(image_reach.max()), one, one, image_reach, one.astype(int))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8))
def test_growth_is_that_of_all_halves(reach: list[float]) -> None:
    """The expected maximum of a random half, here by going through all halves."""
    halves = [max(half) for half in combinations(reach, len(reach) // 2)]
    expected = max(reach) / np.mean(halves) - 1
    assert coverage(statistics(reach)).growth == pytest.approx(expected, abs=1e-9)


def test_growth_is_the_mean_over_tensors_and_dead_ones_do_not_count() -> None:
    steady, growing, dead = [1.0] * 4, [1.0, 1.0, 1.0, 3.0], [0.0] * 4
    assert coverage(statistics(steady)).growth == 0
    alone = coverage(statistics(growing)).growth
    assert alone == pytest.approx(0.5)
    assert coverage(statistics(growing, steady, dead)).growth == pytest.approx(alone / 2)


def test_images_that_are_alike_do() -> None:
    judged = coverage(statistics([1.0] * 6, [2.0] * 6))
    assert (judged.enough, judged.odd) == (6, ())


@pytest.mark.parametrize(("last", "enough"), [(1.05, 8), (1.15, 16), (1.3, 32), (1.45, 32)])
def test_more_are_asked_for_where_ranges_still_grow(last: float, enough: int) -> None:
    """Growth is last / ((last + 1) / 2) - 1, and halves with each doubling until it is below 5%."""
    judged = coverage(statistics([1.0] * 7 + [last]))
    growth = last / ((last + 1) / 2) - 1
    assert judged.growth == pytest.approx(growth)
    assert judged.enough == enough
    assert growth / (enough / 8) <= 0.05 < (growth / (enough / 16) if enough > 8 else 1)


def test_as_many_as_asked_for_would_do() -> None:
    """Of values with an upper end, whose maximum closes in on it as 1 / n."""
    generator = np.random.default_rng(0)
    draw = [list(generator.uniform(0, 1, 4096)) for _ in range(200)]
    first = coverage(statistics(*[reach[:8] for reach in draw]))
    assert 8 < first.enough <= 64
    more = coverage(statistics(*[reach[: first.enough] for reach in draw]))
    assert more.growth < 0.05
    assert more.enough == first.enough


@pytest.mark.parametrize("place", [0, 3, 5])
def test_an_odd_image_is_named(place: int) -> None:
    tensors = [list(1 + 0.05 * np.random.default_rng(i).random(6)) for i in range(9)]
    for tensor in tensors[:6]:
        tensor[place] *= 2
    assert coverage(statistics(*tensors)).odd == (place,)
    # In fewer than half of the tensors it is no more than an unusual part.
    for tensor in tensors[:3]:
        tensor[place] /= 2
    assert coverage(statistics(*tensors)).odd == ()


def test_a_single_image_is_not_settled_and_two_name_no_odd_one() -> None:
    alone = coverage(statistics([2.0]))
    assert alone.growth == 1 and alone.enough > 1 and alone.odd == ()
    assert coverage(statistics([1.0, 9.0])).odd == ()
