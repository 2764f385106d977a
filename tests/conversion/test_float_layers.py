"""Which layers a broken limit leaves in float: the fewest of the most sensitive ones, within half of the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.conversion.quantize import MAX_FLOAT_SHARE, Attempt, _fewest_in_float
from edge_ad_converters.int8 import Sensitivity


def choose(shares: Sequence[float], needed: int) -> tuple[Attempt | None, list[int]]:
    """What is chosen where ``needed`` layers in float mend the limit, and how many each attempt had."""
    layers = tuple(Sensitivity(f"l{i}", 1.0 / (i + 1), share) for i, share in enumerate(shares))
    search: Any = SimpleNamespace(sensitivity=layers)
    nothing: Any = None
    tried = []

    def assess(names: Sequence[str]) -> Attempt:
        tried.append(len(names))
        assert list(names) == [s.layer for s in layers[: len(names)]]
        return Attempt(nothing, nothing, () if len(names) >= needed else ("broken",), tuple(names))

    return _fewest_in_float(search, assess), tried


@given(st.integers(1, 30), st.integers(1, 40))
def test_the_fewest_are_found_in_few_attempts(count: int, needed: int) -> None:
    found, tried = choose([MAX_FLOAT_SHARE / count * 0.999] * count, needed)
    if needed > count:
        assert found is None
    else:
        assert found is not None and len(found.in_float) == needed and not found.broken
    assert len(tried) == len(set(tried)) <= 2 * count.bit_length() + 1


@pytest.mark.parametrize(("shares", "most"), [([0.3, 0.2, 0.1], 2), ([0.6, 0.1], 0), ([0.5, 0.01], 1)])
def test_no_more_than_half_of_the_arithmetic(shares: list[float], most: int) -> None:
    if most:
        found, _ = choose(shares, most)
        assert found is not None and len(found.in_float) == most
    found, tried = choose(shares, most + 1)
    assert found is None and max(tried, default=0) <= most
