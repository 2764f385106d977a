"""Workspaces: the pixels of :func:`preprocess`, byte for byte, in memory that is used again."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad_runtime import resizing
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.preprocess import PreprocessSpec, Roi, Workspace, preprocess
from edge_ad_runtime.resizing import resize, strips

Pixels = npt.NDArray[np.uint8]
# Of cameras, and odd ones.
CAMERAS = [(480, 640), (1080, 1920), (720, 1280), (243, 331), (960, 1280), (512, 768), (256, 256), (200, 500)]


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def plain(rgb: Pixels, height: int, width: int) -> Pixels:
    """Each step by itself, in new memory, on one thread, after the colours were put in order."""
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
    for threads in (1, 2, 3):
        workspace = Workspace(*target, threads)
        workspace.batch[:] = 77
        for image in (rgb, bgr[:, :, ::-1]):
            result = preprocess(image, spec, workspace)
            assert result is workspace.batch
            np.testing.assert_array_equal(result[0], expected)
            workspace.batch[:] = 78
            np.testing.assert_array_equal(preprocess(image, spec)[0], expected)
        workspace.close()


@settings(max_examples=150, deadline=None)
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


@settings(max_examples=60, deadline=None)
@given(st.integers(256, 1100), st.sampled_from([64, 192, 224, 256]), st.integers(2, 5), st.integers(0, 99))
def test_strips_give_the_values_of_the_whole(source: int, target: int, most: int, seed: int) -> None:
    image = noise(source, 70, seed)
    whole = plain(image, target, 64)
    parts = [plain(image[s], t.stop - t.start, 64) for s, t in strips(source, target, most)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_strips_cover_the_axis_and_are_cut_only_where_that_is_exact() -> None:
    assert strips(480, 256, 2) == [
        (slice(0, 240), slice(0, 128)),
        (slice(240, 480), slice(128, 256)),
    ]
    for source, target, most, expected in (
        (1080, 256, 3, 3),
        (1081, 256, 3, 1),  # no row of the source begins with one of the target
        (500, 300, 2, 1),  # 5/3 is no binary fraction
        (300, 300, 4, 4),
        (480, 256, 1, 1),
        (480, 256, 0, 1),
    ):
        found = strips(source, target, most)
        assert len(found) == expected
        assert [found[0][0].start, found[0][1].start] == [0, 0]
        assert [found[-1][0].stop, found[-1][1].stop] == [source, target]
        for (a, b), (c, d) in itertools.pairwise(found):
            assert (a.stop, b.stop) == (c.start, d.start)


def test_large_images_are_shared_by_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    heights: list[int] = []
    average = resizing._average

    def seen(source: Pixels, target: Pixels) -> None:
        heights.append(source.shape[0])
        average(source, target)

    monkeypatch.setattr(resizing, "_average", seen)
    workspace = Workspace(256, 256, 2)
    workspace.resize(noise(1080, 1920))
    assert sorted(heights) == [540, 540]
    workspace.resize(noise(1024, 1024))  # by 4: OpenCV's fast way, as a whole
    workspace.resize(noise(288, 288))  # too small
    assert heights[2:] == [1024, 288]
    workspace.close()


def test_memory_that_opencv_does_not_take_is_filled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale image in the workspace would be the part before, judged twice."""
    own, colours = cv2.resize, cv2.cvtColor
    monkeypatch.setattr(cv2, "resize", lambda image, size, dst=None, interpolation=0: own(image, size, interpolation=interpolation))  # fmt: skip
    monkeypatch.setattr(cv2, "cvtColor", lambda image, code, dst=None: colours(image, code))
    for size in ((480, 640), (1080, 1920), (100, 100), (256, 256)):
        image = noise(*size)
        workspace = Workspace(256, 256, 2)
        expected = plain(image, 256, 256)
        np.testing.assert_array_equal(workspace.resize(image)[0], expected)
        reverse = np.ascontiguousarray(image[:, :, ::-1])
        np.testing.assert_array_equal(workspace.resize(reverse[:, :, ::-1])[0], expected)
        workspace.close()


def test_an_error_in_a_strip_is_told_when_all_strips_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: Pixels, target: Pixels) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(resizing, "_average", fails)
    workspace = Workspace(256, 256, 2)
    with pytest.raises(MemoryError):
        workspace.resize(noise(480, 640))
    monkeypatch.undo()
    image = noise(480, 640)
    np.testing.assert_array_equal(workspace.resize(image)[0], plain(image, 256, 256))
    workspace.close()


def test_a_workspace_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="workspace"):
        preprocess(noise(64, 64), PreprocessSpec(32, 32), Workspace(32, 33))


def test_an_image_that_fits_is_not_copied_without_a_workspace() -> None:
    image = noise(16, 24)
    assert np.shares_memory(resize(image, 16, 24), image)
    workspace = Workspace(16, 24)
    assert not np.shares_memory(workspace.resize(image), image)
