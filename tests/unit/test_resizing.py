"""Workspaces: the pixels of :func:`preprocess`, byte for byte, in memory that is used again."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.preprocess import PreprocessSpec, Roi, Workspace, preprocess
from edge_ad_runtime.resizing import resize

Pixels = npt.NDArray[np.uint8]
# Of cameras, and odd ones.
CAMERAS = [(480, 640), (1080, 1920), (720, 1280), (243, 331), (960, 1280), (512, 768), (256, 256), (200, 500)]


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def plain(rgb: Pixels, height: int, width: int) -> Pixels:
    """Each step by itself, in new memory, after the colours were put in order."""
    h, w = min(rgb.shape[0], height), min(rgb.shape[1], width)
    if (h, w) != rgb.shape[:2]:
        rgb = np.asarray(cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
    if (h, w) != (height, width):
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return rgb


@pytest.mark.parametrize("size", CAMERAS, ids=lambda s: f"{s[1]}x{s[0]}")
@pytest.mark.parametrize("target", [(256, 256), (320, 192), (250, 333)], ids=lambda s: f"{s[1]}x{s[0]}")
def test_a_camera_s_image_is_the_same_in_every_way(size: tuple[int, int], target: tuple[int, int]) -> None:
    bgr = noise(*size)
    rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    expected = plain(rgb, *target)
    spec = PreprocessSpec(*target)
    workspace = Workspace(*target)
    for image in (rgb, bgr[:, :, ::-1]):
        workspace.batch[:] = 77
        result = preprocess(image, spec, workspace)
        assert result is workspace.batch
        np.testing.assert_array_equal(result[0], expected)
        np.testing.assert_array_equal(preprocess(image, spec)[0], expected)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.data())
def test_the_order_of_colours_may_change_afterwards(
    h: int, w: int, height: int, width: int, data: st.DataObject
) -> None:
    x, y = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    roi = Roi(x, y, data.draw(st.integers(1, w - x)), data.draw(st.integers(1, h - y)))
    bgr = noise(h, w, h * 100 + w)
    before = bgr.copy()
    spec = PreprocessSpec(height, width, roi)
    crop = np.ascontiguousarray(bgr[y : y + roi.height, x : x + roi.width, ::-1])
    expected = plain(crop, height, width)
    workspace = Workspace(height, width)
    np.testing.assert_array_equal(preprocess(bgr[:, :, ::-1], spec, workspace)[0], expected)
    np.testing.assert_array_equal(preprocess(bgr[:, :, ::-1], spec)[0], expected)
    np.testing.assert_array_equal(preprocess(np.ascontiguousarray(bgr[:, :, ::-1]), spec)[0], expected)
    np.testing.assert_array_equal(bgr, before)


def test_memory_that_opencv_does_not_take_is_filled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale image in the workspace would be the part before, judged twice."""
    own, colours = cv2.resize, cv2.cvtColor
    monkeypatch.setattr(cv2, "resize", lambda image, size, dst=None, interpolation=0: own(image, size, interpolation=interpolation))  # fmt: skip
    monkeypatch.setattr(cv2, "cvtColor", lambda image, code, dst=None: colours(image, code))
    for size in ((480, 640), (1080, 1920), (100, 100), (256, 256)):
        image = noise(*size)
        workspace = Workspace(256, 256)
        expected = plain(image, 256, 256)
        np.testing.assert_array_equal(workspace.resize(image)[0], expected)
        reverse = np.ascontiguousarray(image[:, :, ::-1])
        np.testing.assert_array_equal(workspace.resize(reverse[:, :, ::-1])[0], expected)


def test_a_workspace_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="workspace"):
        preprocess(noise(64, 64), PreprocessSpec(32, 32), Workspace(32, 33))


def test_an_image_that_fits_is_not_copied_without_a_workspace() -> None:
    image = noise(16, 24)
    assert np.shares_memory(resize(image, 16, 24), image)
    workspace = Workspace(16, 24)
    assert not np.shares_memory(workspace.resize(image), image)
