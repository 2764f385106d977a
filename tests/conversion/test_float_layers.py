"""Which layers a broken limit leaves in float: the fewest of the largest relief, within half of the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.conversion.quantize import MAX_FLOAT_SHARE, Attempt, _fewest_in_float


def fitted(layers: dict[str, float]) -> list[str]:
    """Those that go into half of the arithmetic, one after another; one that does not is passed over."""
    found: list[str] = []
    for name, share in layers.items():
        if sum(layers[n] for n in found) + share <= MAX_FLOAT_SHARE:
            found.append(name)
    return found


def choose(shares: Sequence[float], needed: int) -> tuple[Attempt | None, list[int]]:
    """What is chosen where ``needed`` layers in float mend the limit, and how many each attempt had."""
    layers = {f"l{i}": share for i, share in enumerate(shares)}
    search: Any = SimpleNamespace(relief=tuple(layers), shares=layers)
    fitting = fitted(layers)
    nothing: Any = None
    tried = []

    def assess(names: Sequence[str]) -> Attempt:
        tried.append(len(names))
        assert list(names) == fitting[: len(names)]
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


@pytest.mark.parametrize(
    ("shares", "most"), [([0.3, 0.2, 0.1], 2), ([0.6, 0.1], 1), ([0.5, 0.01], 1), ([0.6], 0)]
)
def test_no_more_than_half_of_the_arithmetic(shares: list[float], most: int) -> None:
    if most:
        found, _ = choose(shares, most)
        assert found is not None and len(found.in_float) == most
    found, tried = choose(shares, most + 1)
    assert found is None and max(tried, default=0) <= most
