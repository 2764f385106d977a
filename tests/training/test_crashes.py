"""Trainings that end at a bad moment: what is on disk is whole, and --resume ends as if nothing had been."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from edge_ad.run_folder import open_run, read_config
from edge_ad.training.curves import CURVES, draw_curves
from edge_ad.training.job import train
from edge_ad.training.options import TrainOptions, plan
from edge_ad.training.points import keep_point
from edge_ad.training.state import append_metrics, read_metrics
from edge_ad_runtime.errors import RunError
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import run_plan, write_parts
from tests.training.test_job import StopAfter, assert_same, weights


class Killed(BaseException):
    """Stands for a kill: nothing handles it."""


def killed(*_: object) -> None:
    raise Killed


def test_a_kill_between_the_record_and_the_results_of_an_early_stop(
    tmp_path: Path, parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without learning the second point is stale already.
    made = run_plan(parts, random_teacher, 1000, evaluate_every=1, patience=1, rate=1e-12, decay_at=0.6)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("edge_ad.training.job.finish", killed)
        with pytest.raises(Killed):
            train(out, made, "cpu", StopRequest(), resume=False)
    with pytest.raises(RunError, match="has not finished"):
        open_run(out)
    other = run_plan(parts, random_teacher, 1000, evaluate_every=1, patience=1, rate=1e-3, decay_at=0.6)
    with pytest.raises(RunError, match=r"other options \(rate\)"):
        train(out, other, "cpu", StopRequest(), resume=True)
    result = train(out, made, "cpu", StopRequest(), resume=True)
    assert result is not None and result.steps == open_run(out).config.steps == 4


def test_more_steps_than_those_of_a_started_run_are_refused(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    out = tmp_path / "run"
    made = run_plan(parts, random_teacher, 3, evaluate_every=1, patience=9)
    assert train(out, made, "cpu", StopAfter(1), resume=False) is None
    with pytest.raises(RunError, match=r"other options \(steps\)"):
        more = run_plan(parts, random_teacher, 5, evaluate_every=1, patience=9)
        train(out, more, "cpu", StopRequest(), resume=True)


def test_changed_images_are_named_as_such(tmp_path: Path, random_teacher: Path) -> None:
    data, out = write_parts(tmp_path / "data", size=32), tmp_path / "run"
    options = TrainOptions(teacher=random_teacher, epochs=1, penalty="none")
    assert train(out, plan(data, options, "cpu"), "cpu", StopAfter(0), resume=False) is None
    with pytest.raises(RunError, match=r"other options \(.*seed\)"):
        other = dataclasses.replace(options, seed=7)
        train(out, plan(data, other, "cpu"), "cpu", StopRequest(), resume=True)
    # One less: an epoch has fewer steps now, though the options are the same.
    (data / "train" / "good" / "000.png").unlink()
    with pytest.raises(RunError, match=r"the images in .* have changed"):
        train(out, plan(data, options, "cpu"), "cpu", StopRequest(), resume=True)


def test_a_kill_while_a_point_is_replaced_leaves_the_old_one(
    tmp_path: Path, short_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(short_run)
    kept = keep_point(tmp_path, "best", run.nets, run.config, run.split, run.calibration)
    before = weights(kept)
    with torch.no_grad():
        next(run.nets.student.parameters()).zero_()
    with monkeypatch.context() as patch:
        patch.setattr("edge_ad.training.points.finish", killed)
        with pytest.raises(Killed):
            keep_point(tmp_path, "best", run.nets, run.config, run.split, run.calibration)
    assert all(torch.equal(v, before[k]) for k, v in weights(open_run(kept).path).items())
    assert [p.name for p in (tmp_path / "points").iterdir()] == ["best"]
    keep_point(tmp_path, "best", run.nets, run.config, run.split, run.calibration)
    assert not all(torch.equal(v, before[k]) for k, v in weights(open_run(kept).path).items())


def test_a_best_point_that_a_kill_took_is_replaced(
    tmp_path: Path, parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No later point is better than the first.
    monkeypatch.setattr("edge_ad.training.points.Point.better_than", lambda _self, _other: False)
    made = run_plan(parts, random_teacher, 3, evaluate_every=1, keep="best")
    out = tmp_path / "run"
    assert train(out, made, "cpu", StopAfter(1), resume=False) is None
    best = out / "points" / "best"
    assert read_config(best)[0].steps == 1
    shutil.rmtree(best)
    result = train(out, made, "cpu", StopRequest(), resume=True)
    assert result is not None and result.steps == 3
    # The record says what the nets have seen, not what was planned.
    assert open_run(out).config.steps == read_config(best)[0].steps == 2
    assert all(torch.equal(v, weights(best)[k]) for k, v in weights(out).items())


def test_every_option_resumes_to_the_same_nets_and_points(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    made = run_plan(
        parts, random_teacher, 5, evaluate_every=2, patience=9, keep="best", autoencoder_rate=1e-3,
        precision="bf16", penalty="generated", hard_quantile="cosine:0.9:0.999", batch=2,
    )  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, made, "cpu", StopRequest(), resume=False)
    # Once right after an evaluation point, once right before one.
    assert train(broken, made, "cpu", StopAfter(2), resume=False) is None
    assert train(broken, made, "cpu", StopAfter(1), resume=True) is None
    assert train(broken, made, "cpu", StopRequest(), resume=True)
    assert_same(whole, broken)
    assert read_config(whole) == read_config(broken)
    points = [[line for line in read_metrics(out) if "tail" in line] for out in (whole, broken)]
    assert points[0] == points[1] and [line["step"] for line in points[0]] == [2, 4, 5]


def test_curves_before_the_first_evaluation_point(tmp_path: Path) -> None:
    line = {"step": 100, "hard": 1.0, "penalty": 0.0, "ae": 1.0, "stae": 1.0, "rate": 1e-4}
    append_metrics(tmp_path, {**line, "images_per_s": 9.0})
    draw_curves(tmp_path)
    assert (tmp_path / CURVES).exists()


def test_a_run_of_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"size": "n", "hard_quantile": 0.999, "format_version": 1}')
    with pytest.raises(RunError, match="run format 1 is not known here"):
        read_config(tmp_path)
