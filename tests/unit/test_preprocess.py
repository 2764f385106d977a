"""The one preprocessing: exact shapes, exact averages, and values that must never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.preprocess import PreprocessSpec, Roi, preprocess, resize

Pixels = npt.NDArray[np.uint8]


def image_of(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def averages(source: int, target: int) -> npt.NDArray[np.float64]:
    """The weight of each source pixel in each target pixel, by overlapping length; ``target x source``."""
    step = source / target
    begin = np.arange(target)[:, None] * step
    pixel = np.arange(source)[None, :]
    overlap = np.minimum(begin + step, pixel + 1) - np.maximum(begin, pixel)
    return np.asarray(np.clip(overlap, 0, None) / step, np.float64)


sizes = st.integers(1, 70)


@settings(max_examples=150, deadline=None)
@given(h=sizes, w=sizes, height=sizes, width=sizes, seed=st.integers(0, 1000))
def test_any_size_to_any_size(h: int, w: int, height: int, width: int, seed: int) -> None:
    image = image_of(h, w, seed)
    before = image.copy()
    result = preprocess(image, PreprocessSpec(height=height, width=width))
    assert result.shape == (1, height, width, 3)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(image, before)
    for channel in range(3):  # averages stay between the extremes
        assert image[..., channel].min() <= result[..., channel].min()
        assert result[..., channel].max() <= image[..., channel].max()


@settings(max_examples=100, deadline=None)
@given(h=sizes, w=sizes, data=st.data())
def test_shrinking_is_the_average_over_the_area(h: int, w: int, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    image = image_of(h, w, h * 100 + w)
    exact = np.einsum("ih,hwc,jw->ijc", averages(h, height), image.astype(float), averages(w, width))
    assert np.abs(resize(image, height, width) - exact).max() <= 0.51


@settings(max_examples=100, deadline=None)
@given(h=sizes, w=sizes, height=sizes, width=sizes, data=st.data())
def test_region_of_interest_is_a_crop(h: int, w: int, height: int, width: int, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    roi = Roi(x, y, data.draw(st.integers(1, w - x)), data.draw(st.integers(1, h - y)))
    image = image_of(h, w)
    crop = np.ascontiguousarray(image[y : y + roi.height, x : x + roi.width])
    expected = preprocess(crop, PreprocessSpec(height=height, width=width))
    result = preprocess(image, PreprocessSpec(height=height, width=width, roi=roi))
    np.testing.assert_array_equal(result, expected)
    assert result.flags.c_contiguous


VIEWS: dict[str, Callable[[Pixels], Pixels]] = {
    "upside down": lambda x: x[::-1],
    "mirrored": lambda x: x[:, ::-1],
    "BGR to RGB": lambda x: x[..., ::-1],
    "column order": np.asfortranarray,
    "every second pixel": lambda x: x[::2, ::3],
    "turned": lambda x: x.transpose(1, 0, 2),
    "three of four channels": lambda x: np.dstack([x, x[..., :1]])[..., :3],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape),
    "broadcast": lambda x: np.broadcast_to(x[:1, :1], x.shape),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("target", [(8, 8), (64, 90), (20, 90), (37, 53)])
def test_strides_do_not_matter(view: str, target: tuple[int, int]) -> None:
    image = VIEWS[view](image_of(37, 53))
    spec = PreprocessSpec(*target)
    np.testing.assert_array_equal(preprocess(image, spec), preprocess(image.copy(order="C"), spec))


def test_the_same_size_is_unchanged() -> None:
    image = image_of(16, 24)
    np.testing.assert_array_equal(preprocess(image, PreprocessSpec(16, 24))[0], image)


def test_fixed_values() -> None:
    """A change of these values means that bundles in the field no longer see what they were made for."""
    image = ((np.arange(6 * 9 * 3) * 37) % 256).astype(np.uint8).reshape(6, 9, 3)
    shrunk = [
        [[118, 84, 107], [138, 132, 98], [100, 137, 145], [119, 99, 136]],
        [[125, 162, 142], [88, 124, 162], [164, 87, 124], [126, 163, 86]],
        [[132, 112, 149], [151, 131, 112], [114, 150, 131], [133, 113, 150]],
    ]
    np.testing.assert_array_equal(preprocess(image, PreprocessSpec(3, 4))[0], shrunk)
    # Multiples of 16, so that no bilinear weight (quarters) meets a rounding tie.
    small = np.array([[[0, 16, 240], [96, 32, 0]], [[208, 48, 0], [48, 64, 240]]], np.uint8)
    weights = np.array([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4
    grown = np.einsum("ih,hwc,jw->ijc", weights, small.astype(float), weights)
    np.testing.assert_array_equal(preprocess(small, PreprocessSpec(4, 4))[0], grown)


def test_one_axis_shrinks_and_the_other_grows() -> None:
    image = np.zeros((8, 2, 3), np.uint8)
    image[::2] = 200  # stripes that averaging turns into an even 100
    assert (preprocess(image, PreprocessSpec(2, 6)) == 100).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}",
)
def test_not_an_image(image: Any) -> None:
    with pytest.raises(InputError, match="expected uint8 HxWx3"):
        preprocess(image, PreprocessSpec(4, 4))


@pytest.mark.parametrize("roi", [(5, 0, 4, 4), (0, 5, 4, 4), (0, 0, 9, 1), (0, 0, 1, 9), (100, 100, 1, 1)])
def test_region_outside_the_image(roi: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="does not fit in the 8x8 image"):
        preprocess(image_of(8, 8), PreprocessSpec(4, 4, Roi(*roi)))


def test_impossible_specs() -> None:
    for values in ((-1, 0, 4, 4), (0, -1, 4, 4), (0, 0, 0, 4), (0, 0, 4, 0)):
        with pytest.raises(InputError, match="region of interest"):
            Roi(*values)
    for size in ((0, 4), (4, 0), (-1, 4)):
        with pytest.raises(InputError, match="input size"):
            PreprocessSpec(*size)


def test_a_spec_survives_json() -> None:
    spec = PreprocessSpec(256, 320, Roi(1, 2, 3, 4))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=PreprocessSpec) == spec
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"height":0,"width":4}', type=PreprocessSpec)
