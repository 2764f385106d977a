"""Training: repeatable, resumable, honest about its images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch

from edge_ad.checkpoint import load_tensors
from edge_ad.data import content_hash, read_dataset, split_good
from edge_ad.nets.model import normalize, to_tensor
from edge_ad.run_folder import open_run, open_scorer
from edge_ad.training.feed import step_picks
from edge_ad.training.job import train
from edge_ad_runtime.errors import DataError, EdgeAdError, ImageError, RunError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import good_part, run_plan, write_parts


class StopAfter(StopRequest):
    """Asks to stop when it has been looked at a number of times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def weights(run: Path) -> dict[str, torch.Tensor]:
    nets = ("teacher", "student", "autoencoder", "normalization")
    return {f"{n}.{k}": v for n in nets for k, v in load_tensors(run / f"{n}.safetensors")[0].items()}


def assert_same(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
    first, second = (json.loads((p / "calibration.json").read_text()) for p in (a, b))
    for record in (first, second):
        del record["created"]
    assert first == second


def test_resumed_equals_uninterrupted_and_seeds_repeat(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    penalty = tmp_path / "penalty"
    penalty.mkdir()
    for i in range(3):
        cv2.imwrite(str(penalty / f"{i}.png"), good_part(500 + i) // 2)
    config = run_plan(parts, random_teacher, 4, penalty=str(penalty))
    whole, again, broken = tmp_path / "whole", tmp_path / "again", tmp_path / "broken"
    for out in (whole, again):
        assert train(out, config, "cpu", StopRequest(), resume=False)
    assert train(broken, config, "cpu", StopAfter(2), resume=False) is None
    with pytest.raises(RunError, match="has not finished"):
        open_run(broken)
    with pytest.raises(RunError, match="--resume"):
        train(broken, config, "cpu", StopRequest(), resume=False)
    with pytest.raises(RunError, match="other options \\(rate\\)"):
        other = run_plan(parts, random_teacher, 4, penalty=str(penalty), rate=1e-3)
        train(broken, other, "cpu", StopRequest(), resume=True)
    assert train(broken, config, "cpu", StopRequest(), resume=True)
    assert_same(whole, again)
    assert_same(whole, broken)
    assert not (whole / "checkpoint.safetensors").exists()
    trained, teacher = weights(whole), load_tensors(random_teacher)[0]
    assert all(torch.equal(trained[f"teacher.{k}"], v) for k, v in teacher.items())


def test_a_run_scores_images_and_records_its_split(short_run: Path, parts: Path) -> None:
    run = open_run(short_run)
    assert len(run.split.train) == 9
    assert len(run.split.validation) == 5
    assert not set(run.split.train.values()) & set(run.split.validation.values())
    maps = open_scorer(short_run).raw_maps(read_image(parts / "test" / "good" / "000.png"))
    assert maps.st.shape == maps.ae.shape == (56, 56)
    assert maps.st.min() >= 0


def test_teacher_channels_are_normalized_over_the_training_images(short_run: Path, parts: Path) -> None:
    run = open_run(short_run)
    batches = [to_tensor(preprocess(read_image(parts / n), run.config.preprocess)) for n in run.split.train]
    with torch.inference_mode():
        features = torch.cat([run.nets.teacher_normalized(run.nets.trunk(normalize(b))) for b in batches])
    assert features.mean((0, 2, 3)).abs().max() < 1e-3
    assert (features.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3


def test_every_image_comes_once_in_each_pass() -> None:
    picks = [i for step in range(9) for i in step_picks(6, 2, 42, step)]
    for start in range(0, 18, 6):
        assert sorted(picks[start : start + 6]) == list(range(6))
    assert picks[:6] != picks[6:12]


def test_broken_image_is_named_before_the_first_step(tmp_path: Path, random_teacher: Path) -> None:
    data = write_parts(tmp_path / "data")
    broken = data / "train" / "good" / "003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"003\.png"):
        train(tmp_path / "run", run_plan(data, random_teacher, 2), "cpu", StopRequest(), resume=False)


def test_split_is_disjoint_seeded_and_groups_stay_together(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data", good=40)
    dataset = read_dataset(data)
    split = split_good(dataset, 0.25, seed=1)
    assert split == split_good(dataset, 0.25, seed=1)
    assert split != split_good(dataset, 0.25, seed=2)
    assert len(split.validation) == 10
    hashes = [{content_hash(p) for p in part} for part in (split.train, split.validation)]
    assert not hashes[0] & hashes[1]
    grouped = split_good(dataset, 0.25, seed=1, group=r"^(\d\d)")
    tens = [{p.stem[:2] for p in part} for part in (grouped.train, grouped.validation)]
    assert not tens[0] & tens[1]
    with pytest.raises(DataError, match="does not match"):
        split_good(dataset, 0.25, seed=1, group="nothing")


def test_repeated_and_leaking_images(tmp_path: Path) -> None:
    data = write_parts(tmp_path / "data")
    good = data / "train" / "good"
    (good / "copy.png").write_bytes((good / "000.png").read_bytes())
    split = split_good(read_dataset(data), 0.1, seed=0)
    assert [p.name for p in split.duplicates] == ["copy.png"]
    (data / "test" / "good" / "leak.png").write_bytes((good / "001.png").read_bytes())
    split = split_good(read_dataset(data), 0.1, seed=0)
    assert [p.name for p in split.leaking] == ["001.png"]
    assert good / "001.png" not in split.train + split.validation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocess": PreprocessSpec(height=128, width=128)}, "128x128"),
        ({"penalty": "nowhere"}, "no penalty images"),
        ({"size": "s"}, "is a teacher of size 'n'"),
    ],
)
def test_impossible_options_leave_nothing_behind(
    tmp_path: Path, parts: Path, random_teacher: Path, changes: dict[str, object], message: str
) -> None:
    out = tmp_path / "run"
    config = run_plan(parts, random_teacher, 2, **changes)
    with pytest.raises(EdgeAdError, match=message):
        train(out, config, "cpu", StopRequest(), resume=False)
    assert not out.exists()


@pytest.mark.parametrize("count", [0, 4])
def test_too_few_images(tmp_path: Path, count: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(count):
        cv2.imwrite(str(data / f"{i}.png"), good_part(i))
    with pytest.raises(DataError, match=r"no images|too few"):
        split_good(read_dataset(data), 0.1, seed=0)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        read_dataset(tmp_path / "nowhere")
    (tmp_path / "test" / "good").mkdir(parents=True)
    with pytest.raises(DataError, match="no train/good"):
        read_dataset(tmp_path)
