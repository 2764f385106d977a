"""Schedules, optimizers, evaluation points, early stop, budget, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edge_ad.checkpoint import load_tensors
from edge_ad.cli.train import command
from edge_ad.run_folder import open_run, open_scorer, read_config
from edge_ad.training.job import Trainer, train
from edge_ad.training.options import TrainOptions, parse_budget, plan
from edge_ad.training.points import Point, Watch
from edge_ad.training.schedules import parse_schedule, rate_factor
from edge_ad.training.state import read_metrics
from edge_ad_runtime.errors import DataError, EdgeAdError, InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import run_plan, write_parts
from tests.training.test_job import StopAfter, weights


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.999", {0: 0.999, 0.5: 0.999, 1: 0.999}),
        ("linear:0.9:0.999", {0: 0.9, 0.5: 0.9495, 1: 0.999}),
        (
            "cosine:0.9:0.999",
            {0: 0.9, 0.5: 0.9495, 1: 0.999, 0.25: 0.9 + 0.099 * (1 - np.cos(np.pi / 4)) / 2},
        ),
        ("steps:0.9@0,0.99@0.5,0.999@0.8", {0: 0.9, 0.49: 0.9, 0.5: 0.99, 0.79: 0.99, 0.8: 0.999, 1: 0.999}),
    ],
)
def test_schedules(text: str, values: dict[float, float]) -> None:
    schedule = parse_schedule(text)
    for progress, value in values.items():
        assert schedule.at(progress) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    ["", "1", "0", "-0.5", "nan", "linear:0.9", "linear:0.9:2", "cosine:a:b", "steps:0.9", "steps:0.9@0.5",
     "steps:0.9@0,0.8@0", "steps:0.9@0,0.99@1.5", "cubic:0.1:0.9"],
)  # fmt: skip
def test_unusable_schedules(text: str) -> None:
    with pytest.raises(InputError, match="hard-feature quantile"):
        parse_schedule(text)


def test_the_rate_falls_to_a_tenth_counted_in_steps() -> None:
    assert [rate_factor(step, 70_000, 0.95) for step in (0, 66_499, 66_500, 69_999)] == [1, 1, 0.1, 0.1]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "0m", "-1m", "1d"])
def test_unusable_budgets(text: str) -> None:
    with pytest.raises(InputError, match="budget"):
        parse_budget(text)


def test_contradicting_options() -> None:
    with pytest.raises(InputError, match="one of steps, epochs and budget"):
        TrainOptions(steps=1, budget=60)
    with pytest.raises(InputError, match="separate"):
        TrainOptions(autoencoder_rate=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "bset"}, "keep 'bset' is unknown; use last, best, all"),
        ({"optimizers": "seperate"}, "optimizers 'seperate'"),
        ({"precision": "fp16"}, "precision 'fp16'"),
        ({"rate": 0.0}, "learning rate 0.0"),
        ({"rate": float("nan")}, "learning rate nan"),
        ({"optimizers": "separate", "autoencoder_rate": -1.0}, "autoencoder -1.0"),
        ({"weight_decay": float("nan")}, "weight decay nan"),
        ({"validation": float("nan")}, "validation share nan"),
        ({"budget": float("inf")}, "budget inf"),
        ({"steps": 0}, "steps, 0"),
        ({"epochs": 0}, "epochs, 0"),
        ({"batch": 0}, "batch, 0"),
        ({"patience": 0}, "patience, 0"),
        ({"evaluate_every": 0}, "evaluation points, 0"),
        ({"evaluate_every": "pass"}, "evaluation points, pass"),
        ({"mix": "0.5:0.5"}, "parse_mix"),
        ({"score": "median"}, "image score 'median'"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
    ],
)
def test_unusable_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainOptions(**changes)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "10", "--budget", "1m"],
        ["--autoencoder-rate", "1e-3"],
        ["--validation", "nan"],
        ["--rate", "nan"],
        ["--evaluate-every", "²"],
        ["--seed", str(2**64)],
    ],
)
def test_unusable_options_are_usage_errors(tmp_path: Path, parts: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, [str(parts), "-o", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "run").exists()


def test_warnings_of_a_plan(tmp_path: Path, random_teacher: Path) -> None:
    data = write_parts(tmp_path / "data")
    options: dict[str, Any] = {"teacher": random_teacher, "steps": 10, "evaluate_every": 2}
    assert not plan(data, TrainOptions(**options, patience=4), "cpu").warnings
    (never,) = plan(data, TrainOptions(**options, patience=5), "cpu").warnings
    assert "never ends the training early" in never
    (chosen,) = plan(data, TrainOptions(**options, patience=4, labelled=data), "cpu").warnings
    assert "chosen on the test images" in chosen
    other = write_parts(tmp_path / "other")
    (other / "test" / "good" / "seen.png").write_bytes((data / "train" / "good" / "003.png").read_bytes())
    (seen,) = plan(data, TrainOptions(**options, labelled=other), "cpu").warnings
    assert seen.startswith("1 images of")


def test_separate_optimizers_differ_only_by_their_rates(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    """No loss moves both nets, so that Adam does to each the same whether it is alone or not."""
    runs = {}
    for name, rate in (("joint", None), ("same", 1e-4), ("other", 1e-3)):
        config = run_plan(parts, random_teacher, 3, autoencoder_rate=rate)
        assert train(tmp_path / name, config, "cpu", StopRequest(), resume=False)
        runs[name] = weights(tmp_path / name)
    assert all(torch.equal(v, runs["same"][k]) for k, v in runs["joint"].items())
    for name, value in runs["joint"].items():
        moved = not torch.equal(value, runs["other"][name])
        # The first step's student does not see the autoencoder yet; from the second on it follows it.
        assert moved or not name.startswith("autoencoder"), name
        assert not moved or not name.startswith("teacher"), name


def test_bf16_is_close_to_fp32_and_trains_float32_weights(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        config = run_plan(parts, random_teacher, 3, precision=precision)
        assert train(tmp_path / precision, config, "cpu", StopRequest(), resume=False)
        losses[precision] = read_metrics(tmp_path / precision)[0]
        assert all(v.dtype == torch.float32 for v in weights(tmp_path / precision).values())
    for name in ("hard", "ae", "stae"):
        assert losses["bf16"][name] == pytest.approx(losses["fp32"][name], rel=0.05)
        assert losses["bf16"][name] != losses["fp32"][name]


def test_points_are_measured_and_kept_as_runs(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    made = run_plan(
        parts, random_teacher, 4, evaluate_every=2, keep="all", labelled=str(parts), score="topk:3"
    )
    out = tmp_path / "run"
    labelled = plan(parts, TrainOptions(teacher=random_teacher, labelled=parts), "cpu").labelled
    made = type(made)(made.dataset, made.split, made.config, made.teacher, labelled)
    assert train(out, made, "cpu", StopRequest(), resume=False)
    points = [line for line in read_metrics(out) if "tail" in line]
    assert [line["step"] for line in points] == [2, 4]
    assert all(line["auroc"] is not None and 0 <= line["auroc"] <= 1 for line in points)
    image = read_image(parts / "test" / "good" / "000.png")
    last, kept = open_scorer(out), open_scorer(out / "points" / "000004")
    assert np.array_equal(last.raw_maps(image).st, kept.raw_maps(image).st)
    assert kept.calibration.quantiles == last.calibration.quantiles
    assert last.calibration.score == "topk:3"
    earlier = open_scorer(out / "points" / "000002")
    assert not np.array_equal(earlier.raw_maps(image).st, kept.raw_maps(image).st)
    assert (out / "curves.png").stat().st_size > 10_000


def test_the_best_point_becomes_the_run(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    # At a rate that is far too high it is left to chance which point is best: look for one that is not the last.
    for seed in range(10):
        out = tmp_path / str(seed)
        made = run_plan(parts, random_teacher, 4, evaluate_every=1, keep="best", rate=0.05, seed=seed)
        assert train(out, made, "cpu", StopRequest(), resume=False)
        tails = [line["tail"] for line in read_metrics(out) if "tail" in line]
        best = int(np.argmin(np.asarray(tails, float)))
        run = open_run(out)
        q = run.calibration.quantiles
        assert np.sqrt(q.qb_st * q.qb_ae) == pytest.approx(tails[best], rel=1e-6)
        # The record says what the nets have seen, not what was planned.
        assert run.config.steps == best + 1
        if best < len(tails) - 1:
            return
    raise AssertionError("no seed had its best point before the last")


def point(step: int, tail: float, auroc: float | None = None) -> Point:
    return Point(step=step, tail=tail, threshold=0, score_mean=0, score_std=1, score_max=1, auroc=auroc)


def test_the_watch_counts_points_without_progress() -> None:
    watch = Watch()
    for step, (tail, stale) in enumerate([(1.0, 0), (0.8, 0), (0.9, 1), (0.795, 2), (0.7, 0)]):
        watch = watch.after(point(step, tail))
        assert watch.stale == stale
    assert watch.best is not None and watch.best.step == 4
    # With labels the AUROC decides, and its rise is progress.
    watch = Watch().after(point(0, 1.0, 0.7)).after(point(1, 1.2, 0.9))
    assert watch.stale == 0 and watch.best is not None and watch.best.step == 1
    assert watch.after(point(2, 0.5, 0.8)).best == watch.best


def test_early_stop_ends_with_the_lower_rate(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    # Without learning there is no progress: the second and third point are stale.
    made = run_plan(parts, random_teacher, 1000, evaluate_every=2, patience=2, rate=1e-12, decay_at=0.6)
    out = tmp_path / "run"
    result = train(out, made, "cpu", StopRequest(), resume=False)
    assert result is not None and result.steps == 10
    assert read_config(out)[0].steps == 10
    rates = {line["step"]: line["rate"] for line in read_metrics(out) if "rate" in line}
    assert rates[6] == pytest.approx(1e-12) and rates[10] == pytest.approx(1e-13)


class TickingClock:
    """Virtual time: every look at it takes ``tick`` seconds, so that a step's time is known."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def test_a_budget_chooses_the_steps(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    made = run_plan(parts, random_teacher, 1, budget=6.0, evaluate_every=1000)
    out = tmp_path / "run"
    result = train(out, made, "cpu", StopRequest(), resume=False, clock=TickingClock(0.1))
    # 33 looks at the clock are over before the steps are chosen; a step and an evaluation were measured at
    # 0.1 s, and the end takes two of the latter.
    assert result is not None and result.steps == int(((6 - 3.3) * 0.95 - 0.2) / (0.1 + 0.1 / 1000))
    assert read_config(out)[0].steps == result.steps
    with pytest.raises(EdgeAdError, match="too short"):
        train(tmp_path / "short", made, "cpu", StopRequest(), False, clock=TickingClock(1.0))
    assert not (tmp_path / "short").exists()


def test_a_slow_start_does_not_count_as_slow_steps(
    tmp_path: Path, parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.training.job.REPORT_EVERY", 5)
    clock, reads = TickingClock(0.1), []

    def slow(stores: object) -> None:
        clock.now += 20
        reads.append(stores)

    monkeypatch.setattr("edge_ad.training.job._decode_all", slow)
    made = run_plan(parts, random_teacher, 1, budget=26.0, evaluate_every=1000)
    result = train(tmp_path / "run", made, "cpu", StopRequest(), resume=False, clock=clock)
    assert len(reads) == 1
    assert result is not None and 12 <= result.steps <= 23
    assert 24.5 <= result.seconds <= 26


def test_a_budget_ends_in_time_when_the_machine_gets_slower(
    tmp_path: Path, parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.training.job.REPORT_EVERY", 2)
    clock = TickingClock(0.1)

    class Slower(StopRequest):
        @property
        def requested(self) -> bool:
            clock.now += 4.9
            return False

    made = run_plan(parts, random_teacher, 1, budget=100.0, evaluate_every=1000, decay_at=0.7)
    out = tmp_path / "run"
    result = train(out, made, "cpu", Slower(), resume=False, clock=clock)
    assert result is not None and 10 <= result.steps < 20
    assert result.seconds <= 100
    rates = [line["rate"] for line in read_metrics(out) if "rate" in line]
    assert rates[-1] == pytest.approx(made.config.rate / 10)


def test_a_resumed_run_repeats_no_metrics(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    made = run_plan(parts, random_teacher, 6, evaluate_every=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, made, "cpu", StopRequest(), resume=False)
    assert train(broken, made, "cpu", StopAfter(3), resume=False) is None
    assert (broken / "curves.png").exists()
    # As after a kill: metrics that are ahead of the checkpoint, the last line half-written.
    with (broken / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":5,"hard":1.0}\n{"step":6,"ha')
    assert train(broken, made, "cpu", StopRequest(), resume=True)
    first, second = (
        [(line["step"], line.get("hard"), line.get("tail")) for line in read_metrics(p)]
        for p in (whole, broken)
    )
    assert first == second


def test_generated_penalty_is_the_default_and_repeats(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    made = plan(parts, TrainOptions(teacher=random_teacher, steps=2), "cpu")
    assert made.config.penalty == "generated" and not made.warnings
    trainers = [Trainer(tmp_path / str(i), made, "cpu") for i in range(2)]
    batches = [t.feed.make(1).penalty for t in trainers]
    assert batches[0] is not None and batches[1] is not None
    assert batches[0].shape == (1, 256, 256, 3)
    assert np.array_equal(batches[0], batches[1])
    other = trainers[0].feed.make(0).penalty
    assert other is not None and not np.array_equal(batches[0], other)
    without = plan(parts, TrainOptions(teacher=random_teacher, steps=2, penalty="none"), "cpu")
    assert any("without penalty images" in w for w in without.warnings)


@pytest.mark.parametrize("size", [(256, 320), (288, 256)])
@pytest.mark.parametrize("padding", [False, True])
def test_other_image_sizes_and_padding(
    tmp_path: Path, parts: Path, random_teacher: Path, size: tuple[int, int], padding: bool
) -> None:
    options = TrainOptions(teacher=random_teacher, steps=1, image_size=size, padding=padding)
    out = tmp_path / "run"
    assert train(out, plan(parts, options, "cpu"), "cpu", StopRequest(), resume=False)
    maps = open_scorer(out).raw_maps(read_image(parts / "test" / "good" / "000.png"))
    expected = tuple(s // 4 if padding else (s - 33) // 4 + 1 for s in size)
    assert maps.st.shape == maps.ae.shape == expected


def test_a_labelled_set_needs_both_kinds(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    options: dict[str, Any] = {"teacher": random_teacher, "labelled": parts / "train"}
    with pytest.raises(DataError):
        made = plan(parts, TrainOptions(**options), "cpu")
        train(tmp_path / "run", made, "cpu", StopRequest(), resume=False)
    assert not (tmp_path / "run").exists()


def test_nothing_of_the_teacher_is_trained(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    made = run_plan(parts, random_teacher, 2, precision="bf16", penalty="generated")
    assert train(tmp_path / "run", made, "cpu", StopRequest(), resume=False)
    teacher = load_tensors(random_teacher)[0]
    kept = weights(tmp_path / "run")
    assert all(torch.equal(kept[f"teacher.{k}"], v) for k, v in teacher.items())
