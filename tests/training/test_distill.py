"""Distillation: extractors on their real files, the projection's mathematics, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_ad.checkpoint import load_tensors
from edge_ad.distill.extractors import ResNet50V2, open_extractor, patch_features
from edge_ad.distill.job import DistillConfig, distill
from edge_ad.distill.views import ViewSet, fit_projection
from edge_ad.teacher import load_teacher
from edge_ad_runtime.errors import DataError, InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import resize
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.types import Image
from tests.training.test_job import StopAfter

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(), reason="needs the extractors' weights, which are not in the repository"
)
RESNET = SHARED / "weights" / "resnet50v2_stages1-3_fp16.safetensors"
MOBILENET = SHARED / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"


class RandomExtractor:
    """Two random convolutions: an extractor in form, fast enough for every test run."""

    name = "random"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.fine = torch.randn(48, 3, 8, 8, generator=generator)
        self.coarse = torch.randn(96, 3, 16, 16, generator=generator)

    def __call__(self, images: list[Image]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return F.conv2d(batch, self.fine, stride=8), F.conv2d(batch, self.coarse, stride=16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(coarse, (96, 72), interpolation=cv2.INTER_CUBIC))
    return folder


def config(**changes: object) -> DistillConfig:
    options: dict[str, object] = {"views": 12, "view_size": 64, "steps": 6, "batch": 2, "bf16": False}
    return DistillConfig(**(options | changes))  # type: ignore[arg-type]


def test_stopped_anywhere_and_gone_on_gives_the_same_teacher(pictures: Path, tmp_path: Path) -> None:
    extractor = RandomExtractor()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = distill(pictures, extractor, whole, config(), "cpu", StopRequest())
    assert result is not None and np.isfinite(result.mse)
    stops = 0
    # One more look each time: first inside the extraction, then inside the steps.
    while distill(pictures, extractor, broken, config(), "cpu", StopAfter(stops + 1)) is None:
        stops += 1
        assert stops < 20
    assert stops >= 2
    left, right = (load_tensors(p / "teacher.safetensors")[0] for p in (whole, broken))
    assert all(torch.equal(left[k], right[k]) for k in left)
    teacher, size, provenance = load_teacher(whole / "teacher.safetensors")
    assert (size, teacher.out_channels, provenance["extractor"]) == ("n", 64, "random")
    assert json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_other_options_in_the_same_folder_are_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert distill(pictures, RandomExtractor(), out, config(), "cpu", StopRequest())
    with pytest.raises(InputError, match="other options \\(seed\\)"):
        distill(pictures, RandomExtractor(), out, config(seed=1), "cpu", StopRequest())


def test_training_lowers_the_error(pictures: Path, tmp_path: Path) -> None:
    options = config(steps=40, batch=4, rate=3e-3)
    result = distill(pictures, RandomExtractor(), tmp_path / "out", options, "cpu", StopRequest())
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert result is not None
    # A constant prediction has a mean square error of 1, the outputs' variance.
    assert lines[-1]["train_mse"] < 2.0
    assert result.mse < 1.0


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        distill(tmp_path, RandomExtractor(), tmp_path / "out", config(), "cpu", StopRequest())


@pytest.mark.parametrize("method", ["pca", "pool"])
def test_projection_standardizes_the_targets(pictures: Path, method: str) -> None:
    views = ViewSet(tuple(sorted(pictures.iterdir())), 12, 64, 0)
    extractor = RandomExtractor()
    projection = fit_projection(extractor, views, 16, method, 12)
    cells = []
    for i in range(12):
        features = patch_features(*extractor([views.draw(i)[1]]))
        cells.append(projection(features)[:, :, ::2, ::2].permute(1, 0, 2, 3).flatten(1))
    targets = torch.cat(cells, 1)
    assert targets.mean(1).abs().max() < 1e-3
    assert targets.var(1).mean() == pytest.approx(1, abs=1e-2)
    covariance = torch.cov(targets)
    if method == "pca":
        off_diagonal = covariance - torch.diag(covariance.diagonal())
        assert off_diagonal.abs().max() < 1e-2
        assert 0 < projection.explained <= 1
    else:
        assert covariance.diagonal() == pytest.approx(1, abs=1e-2)


def test_views_depend_on_seed_and_number_only(pictures: Path) -> None:
    views = ViewSet(tuple(sorted(pictures.iterdir())), 12, 64, 3)
    small, large = views.draw(5)
    assert small.shape == (64, 64, 3)
    assert large.shape == (128, 128, 3)
    assert np.array_equal(small, views.draw(5)[0])
    assert not np.array_equal(small, views.draw(11)[0])


@needs_shared
def test_resnet_reproduces_its_own_batch_statistics() -> None:
    """The inputs of stage 4's first norm agree with the running means that ImageNet training left in it."""
    extractor = open_extractor(RESNET)
    assert isinstance(extractor, ResNet50V2)
    paths = sorted((SHARED / "imagenet1k_sample").glob("*.JPEG"))[::60]
    means = [extractor([resize(read_image(p), 224, 224)])[1].mean((0, 2, 3)) for p in paths]
    measured = torch.stack(means).mean(0)
    stored = extractor._weights["stage4_batchnorm0_running_mean"]
    assert np.corrcoef(measured.numpy(), stored.numpy())[0, 1] > 0.95


@needs_shared
@pytest.mark.parametrize(("path", "channels"), [(RESNET, 1536), (MOBILENET, 768)])
def test_extractors_give_patch_features(path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    features = patch_features(*open_extractor(path)([image, image]))
    assert features.shape == (2, channels, 16, 16)
    assert torch.equal(features[0], features[1])
    assert features.std() > 0


def test_wrong_extractor_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such extractor"):
        open_extractor(tmp_path / "missing.tflite")
    for suffix in (".tflite", ".safetensors"):
        wrong = tmp_path / f"wrong{suffix}"
        wrong.write_bytes(b"this is not a network, only text that pretends to be one")
        with pytest.raises(InputError, match="wrong"):
            open_extractor(wrong)
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="is a"):
        open_extractor(tmp_path / "net.onnx")


def test_shipped_teacher_is_small_and_whole() -> None:
    from edge_ad.teacher import find_teacher

    path, name, digest = find_teacher("n", None)
    assert path.stat().st_size <= 4e6
    assert name == "shipped n.safetensors"
    assert len(digest) == 64
    net, size, provenance = load_teacher(path)
    assert size == "n"
    assert provenance["held_out_mse"] < 0.5
    assert not any(p.requires_grad for p in net.parameters())
