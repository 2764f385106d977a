"""Generated penalty images: what they promise, and that their statistics are those of natural images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_ad.training.generated import KINDS, Kind, generated_image
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image
from tests.studies.penalty_statistics import (
    PIXEL_STATISTICS,
    SIZE,
    Reference,
    TeacherFeatures,
    natural_images,
)

IMAGENET = Path(__file__).parents[3] / "shared" / "data" / "imagenet1k_sample"


@pytest.fixture(scope="module")
def samples() -> list[Image]:
    return [generated_image(0, i, SIZE, SIZE) for i in range(96)]


def test_an_image_depends_on_its_arguments_alone() -> None:
    first = generated_image(3, 5, 64, 80)
    assert first.dtype == np.uint8
    assert first.shape == (64, 80, 3)
    assert first.flags.c_contiguous
    generated_image(4, 5, 64, 80)
    np.random.seed(1)
    assert np.array_equal(first, generated_image(3, 5, 64, 80))
    for other in ((3, 6), (5, 3), (4, 5)):
        assert not np.array_equal(first, generated_image(*other, 64, 80))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 150), (120, 47), (256, 256)])
def test_every_kind_draws_every_size(kind: Kind, height: int, width: int) -> None:
    for seed in range(8):
        drawn = kind.draw(np.random.default_rng(seed), height, width)
        assert drawn.shape == (height, width, 3)
        assert drawn.dtype == np.float32
        assert np.isfinite(drawn).all()
        assert drawn.std() > 0


def test_shares_add_up() -> None:
    assert sum(kind.share for kind in KINDS) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "low", "high", "spread"),
    [
        # ImageNet, cut as the penalty images are: -1.37, 18, 0.88, 0.21, 0.15 and 0.45.
        ("slope", -1.65, -1.15, 0.2),
        ("kurtosis", 9, 40, 3),
        ("channel corr.", 0.75, 0.97, 0.05),
        ("contrast", 0.15, 0.25, 0.03),
        ("saturation", 0.08, 0.25, 0.05),
        ("brightness", 0.38, 0.52, 0.06),
    ],
)
def test_pixels_are_those_of_natural_images(
    samples: list[Image], name: str, low: float, high: float, spread: float
) -> None:
    values = np.array([PIXEL_STATISTICS[name](image) for image in samples])
    assert low < np.median(values) < high
    assert values.std() > spread


@pytest.mark.skipif(not IMAGENET.is_dir(), reason="needs the ImageNet sample, which is not in the repository")
def test_teacher_sees_natural_images(samples: list[Image]) -> None:
    """Far nearer to ImageNet than noise is, and nearly no natural descriptor without a neighbour."""
    features = TeacherFeatures()
    reference = Reference(natural_images(IMAGENET, 192), features)
    noise = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    generated = reference.compare(features(samples) / reference.scale)
    white = reference.compare(features(list(noise)) / reference.scale)
    assert generated["frechet"] < 7
    assert white["frechet"] > 40
    assert generated["far"] < 0.12 < white["far"]
    assert generated["std"] < 0.15


@pytest.mark.parametrize("arguments", [(-1, 0, 64, 64), (0, -1, 64, 64), (0, 0, 15, 64), (0, 0, 64, 0)])
def test_wrong_arguments_are_named(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="generated image"):
        generated_image(*arguments)
