"""How a combined anomaly map becomes one number: the rules, and reading them from text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edge_ad_runtime.errors import InputError


@dataclass(frozen=True)
class ScoreRule:
    """``kind`` and its number (0 where it has none).

    ``max``: the largest cell, as in the paper. ``topk``: the mean of the largest cells, ``amount`` of them, or,
    below 1, that share of the map (at least one cell). ``percentile``: the ``amount``-th percentile, 0 to 100,
    interpolated linearly. ``mean``: of all cells. Cells are the network's own, 56x56 for 256 px.
    """

    kind: Literal["max", "topk", "percentile", "mean"]
    amount: float = 0.0

    def __str__(self) -> str:
        # Fifteen digits give every number back that was written with as many.
        return f"{self.kind}:{self.amount:.15g}" if self.kind in ("topk", "percentile") else self.kind


MAX = ScoreRule("max")


def parse_score(text: str) -> ScoreRule:
    """Read ``max``, ``mean``, ``topk:100``, ``topk:0.001`` or ``percentile:99.5``.

    Raises:
        InputError: the text is none of these, or its number is out of range.
    """
    kind, colon, number = text.partition(":")
    if text == "max":
        return MAX
    if text == "mean":
        return ScoreRule("mean")
    try:
        amount = float(number) if colon else math.nan
    except ValueError:
        amount = math.nan
    if kind == "topk" and (0 < amount < 1 or (amount >= 1 and amount.is_integer())):
        return ScoreRule("topk", amount)
    if kind == "percentile" and 0 <= amount <= 100:
        return ScoreRule("percentile", amount)
    raise InputError(
        f"the image score '{text}' is not known; use max, mean, topk:CELLS (topk:100), topk:SHARE (topk:0.001) "
        "or percentile:P (percentile:99.5)"
    )
