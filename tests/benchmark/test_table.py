"""The benchmark's table."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from edge_ad.benchmark.records import Figures, Result
from edge_ad.benchmark.table import Spread, as_dict, markdown, mean_row, rows
from edge_ad.training.options import TrainOptions


def result(
    category: str, seed: int, auroc: float, aupro: float | None = None, spro: float | None = None
) -> Result:
    figures = Figures(
        image_auroc=auroc, image_ap=0.5, image_f1=0.5, pixel_auroc=None, aupro=aupro, spro=spro,
        train_seconds=100.0 * seed, steps=2000,
    )  # fmt: skip
    return Result(category=category, data="", seed=seed, int8=False, figures=figures)


def check(got: Spread | None, mean: float, deviation: float | None, count: int) -> None:
    assert got is not None and got.count == count
    assert got.mean == pytest.approx(mean)
    assert got.deviation == (None if deviation is None else pytest.approx(deviation, abs=1e-12))


def test_mean_and_spread_over_the_seeds_by_hand() -> None:
    results = [result("a", 1, 0.9, 0.8), result("a", 2, 0.8, 0.6), result("b", 1, 0.7), result("b", 2, 0.8)]
    a, b = rows(results)
    assert (a.name, a.seeds) == ("a", (1, 2))
    check(a.figures["image_auroc"], 0.85, 0.05 * 2**0.5, 2)
    assert b.figures["aupro"] is None
    mean = mean_row(results)
    # Seed 1: 0.8 over both, seed 2: 0.8; AUPRO over the one that has masks.
    assert mean.name == "mean of 2"
    check(mean.figures["image_auroc"], 0.8, 0.0, 2)
    check(mean.figures["aupro"], 0.7, statistics.stdev([0.8, 0.6]), 2)


def test_the_mean_compares_only_complete_seeds() -> None:
    results = [result("a", 1, 0.9), result("a", 2, 0.1), result("b", 1, 0.7)]
    mean = mean_row(results)
    assert mean.seeds == (1,)
    check(mean.figures["image_auroc"], 0.8, None, 1)
    # Without any complete seed: the mean of the categories' means.
    mean = mean_row([result("a", 1, 0.9), result("a", 2, 0.7), result("b", 3, 0.4)])
    assert mean.seeds == ()
    check(mean.figures["image_auroc"], 0.6, None, 1)


def test_the_markdown_is_a_table() -> None:
    one = markdown([result("bottle", 42, 0.98765, 0.9)], TrainOptions()).splitlines()
    assert one[0] == "Options: the default ones. Seeds: 42."
    heads = "| category | seeds | image AUROC | AP | best F1 | pixel AUROC | AUPRO | train s | steps |"
    assert one[2] == heads and one[3].count("|") == heads.count("|")
    assert one[4] == "| bottle | 1 | 0.9877 | 0.5000 | 0.5000 | - | 0.9000 | 4200 | 2000 |"
    assert one[5].startswith("| mean of 1 | 1 | 0.9877 |")
    two = markdown(
        [result("b", 1, 0.9, spro=0.5), result("b", 2, 0.8)], TrainOptions(batch=4, teacher=Path("/t"))
    )
    assert "batch 4" in two and "teacher /t" in two and "standard deviation" in two
    assert "| sPRO |" in two and "| 0.8500 ± 0.0707 |" in two
    assert markdown([], TrainOptions()).count("|---") == 9


def test_json_has_every_result() -> None:
    got = as_dict([result("b", 1, 0.9)], TrainOptions(), ["a, seed 1: broken"])
    assert got["rows"][0]["figures"]["image_auroc"] == {"mean": 0.9, "deviation": None, "count": 1}
    assert got["results"][0]["figures"]["steps"] == 2000 and got["failures"] == ["a, seed 1: broken"]
    assert "seed" not in got["options"] and got["options"]["size"] == "n"
    assert as_dict([], TrainOptions(), [])["mean"] is None
