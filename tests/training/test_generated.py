"""Generated penalty images: what they promise, and that their statistics are those of natural images."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ad.training.generated import KINDS, generated_image
from edge_ad_runtime.errors import InputError


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
def test_every_kind_draws_every_size(kind, height: int, width: int) -> None:  # type: ignore[no-untyped-def]
    for seed in range(8):
        drawn = kind.draw(np.random.default_rng(seed), height, width)
        assert drawn.shape == (height, width, 3)
        assert drawn.dtype == np.float32
        assert np.isfinite(drawn).all()
        assert drawn.std() > 0


def test_shares_add_up() -> None:
    assert sum(kind.share for kind in KINDS) == pytest.approx(1)


@pytest.mark.parametrize("arguments", [(-1, 0, 64, 64), (0, -1, 64, 64), (0, 0, 15, 64), (0, 0, 64, 0)])
def test_wrong_arguments_are_named(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="generated image"):
        generated_image(*arguments)
