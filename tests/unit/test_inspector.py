"""The inspector's memory: what it gives stays, and is what the single steps give."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.cameras.base import Frame
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.inspector import Inspector, open_inspector
from edge_ad_runtime.preprocess import preprocess
from edge_ad_runtime.scoring import apply_calibration
from edge_ad_runtime.types import Image
from tests.conftest import bad_part, good_part


@pytest.fixture(scope="module")
def inspector(tiny_bundle: Path) -> Inspector:
    return open_inspector(tiny_bundle, threads=1)


def test_results_are_those_of_the_steps_and_stay(inspector: Inspector, tiny_bundle: Path) -> None:
    other = Inspector(open_bundle(tiny_bundle), threads=1)
    spec = other.bundle.manifest.preprocess
    # Some fit the network's input as they are, and some were BGR.
    sizes = [(48, 64), (spec.height, spec.width), (16, 20), (300, 411)]
    images = [(bad_part if i % 3 == 0 else good_part)(i, *sizes[i % 4]) for i in range(16)]
    images[8:] = [np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1] for x in images[8:]]
    expected = [
        apply_calibration(other.engine.run(preprocess(x.copy(), spec)), other.calibration) for x in images
    ]
    inspections, maps = [], []
    for image in images:
        image = image.copy(order="K")
        inspections.append(inspector.inspect(image))
        maps.append(inspector.raw_maps(image))
        image[:] = 0  # as a camera that fills its buffer again
    for image, (combined, score), inspection, raw in zip(images, expected, inspections, maps, strict=True):
        assert inspection.score == score
        np.testing.assert_array_equal(inspection.anomaly_map, combined)
        alone = other.raw_maps(image)
        np.testing.assert_array_equal(raw.st, alone.st)
        np.testing.assert_array_equal(raw.ae, alone.ae)


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920)], ids=str)
def test_no_image_is_allocated_for_a_frame(inspector: Inspector, size: tuple[int, int]) -> None:
    frame = Frame(good_part(0, *size), 0, 0, "x", "BGR")
    inspector.inspect(frame.view)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            inspector.inspect(frame.view)
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # Eight rows of the smaller frame.
    assert most < 16_000


def test_the_engine_is_given_the_same_array_each_time(
    inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    run = inspector.engine.run

    def seen(batch: Image) -> RawMaps:
        given.append(id(batch))
        return run(batch)

    monkeypatch.setattr(inspector.engine, "run", seen)
    inspector.warm_up()
    for size in ((48, 64), (200, 300)):
        inspector.inspect(good_part(1, *size))
    assert given == [id(inspector._workspace.batch)] * 5


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_frame_s_view_shows_its_image_without_a_copy(order: str) -> None:
    pixels = good_part(0)
    frame = Frame(pixels, 0, 0, "x", "RGB" if order == "RGB" else "BGR")
    assert np.shares_memory(frame.view, pixels)
    assert frame.image.flags.c_contiguous
    np.testing.assert_array_equal(frame.view, frame.image)
    np.testing.assert_array_equal(frame.image, pixels if order == "RGB" else pixels[:, :, ::-1])
