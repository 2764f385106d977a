"""The benchmark of tiles runs and counts rightly."""

from __future__ import annotations

from tests.benchmarks.tiles import measure, table


def test_sides_of_a_small_grid() -> None:
    result = measure("n", (256, 640), (256, 256), "ort", rounds=1)
    sides = result["sides"]
    assert result["tiles"] == 3
    assert {name: side["tiles"] for name, side in sides.items()} == {
        "whole": 0, "tiled": 3, "skipping, all new": 3, "skipping, a part": 2, "skipping, still": 0,
    }  # fmt: skip
    assert sides["tiled"]["ratio"] == 1 and min(side["ms"] for side in sides.values()) > 0
    # Nothing computed against three runs of a network.
    assert sides["skipping, still"]["ms"] < sides["tiled"]["ms"]
    assert table(result).count("\n") == 6
