"""The store of pictures: what is kept, under a quota, on a disk that is small, full or gone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from edge_ad_runtime.sinks import pictures as module
from edge_ad_runtime.sinks.pictures import PicturesConfig, PictureStore
from edge_ad_runtime.verdict import Fault
from tests.conftest import bad_part, good_part
from tests.line.records import record, wait_until


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def parts_in(folder: Path) -> list[int]:
    return [int(re.findall(r"_part(\d+)_", name)[0]) for name in names(folder)]


def save_and_wait(store: PictureStore, part: int, image: npt.NDArray[np.uint8]) -> None:
    """One at a time, so that none is lost for want of room in the queue."""
    done = store.saved + store.lost
    store.save(record(part, "reject"), image)
    wait_until(lambda: store.saved + store.lost == done + 1, f"picture {part}")


def test_rejects_faults_and_some_passes_are_kept_with_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    store = PictureStore(PicturesConfig(folder=folder, format="png", every_nth_pass=3))
    images = {part: bad_part(part) for part in range(1, 12)}
    verdicts: list[Literal["pass", "reject", "fault"]] = ["pass", "pass", "reject", "pass", "fault", "pass"]
    for part, verdict in enumerate(verdicts, 1):
        event = record(part, verdict)
        if verdict == "fault":
            event = msgspec.structs.replace(event, fault_kind=Fault.NOT_FINITE)
        store.save(event, images[part])
    store.close()
    assert names(folder) == [
        "0000000001_20260102T030405_part3_reject_0.5.png",
        "0000000002_20260102T030405_part4_pass_0.5.png",
        "0000000003_20260102T030405_part5_fault_not_finite.png",
    ]
    for name, part in zip(names(folder), (3, 4, 5), strict=True):
        np.testing.assert_array_equal(read_image(folder / name), images[part])
    assert (store.saved, store.lost) == (3, 0)
    store.save(record(7, "reject"), images[7])
    assert store.lost == 1, "it is closed"


def test_only_what_is_asked_for_is_kept(tmp_path: Path) -> None:
    store = PictureStore(PicturesConfig(folder=tmp_path, rejects=False, faults=False))
    for verdict in ("pass", "reject", "fault"):
        store.save(record(1, verdict), good_part(1))
    store.close()
    assert (names(tmp_path), store.saved, store.lost) == ([], 0, 0)


def test_the_quota_holds_at_every_moment_and_the_oldest_go_first(tmp_path: Path) -> None:
    strangers = {"notes.txt", "0000000001_holiday.jpg", "part.png"}
    for name in strangers:
        (tmp_path / name).write_bytes(b"x" * 10)
    image = np.random.default_rng(1).integers(0, 255, (100, 100, 3), np.uint8)
    quota = 0.25
    store = PictureStore(PicturesConfig(folder=tmp_path, quota_mb=quota, min_free_mb=0, format="png"))
    for part in range(30):
        save_and_wait(store, part, image)
        assert size_mb(tmp_path) <= quota + 30e-6
    store.close()
    ours = [name for name in names(tmp_path) if name not in strangers]
    assert len(ours) == int(quota * 1e6 / (tmp_path / ours[0]).stat().st_size)
    assert [int(name[:10]) for name in ours] == list(range(31 - len(ours), 31)), "the latest"
    assert strangers < set(names(tmp_path))
    assert (store.saved, store.lost) == (30, 0)

    # Another run counts on, and makes room among what the first one left, whatever the clock says.
    store = PictureStore(PicturesConfig(folder=tmp_path, quota_mb=quota / 2, min_free_mb=0, format="png"))
    event = msgspec.structs.replace(record(77, "reject"), time="1970-01-01T00:00:00.000+00:00")
    store.save(event, image)
    store.close()
    left = [name for name in names(tmp_path) if name not in strangers]
    assert left[-1] == "0000000031_19700101T000000_part77_reject_0.5.png"
    assert [int(name[:10]) for name in left] == list(range(32 - len(left), 32))
    assert size_mb(tmp_path) <= quota / 2 + 30e-6


def test_a_picture_above_the_quota_is_lost_and_deletes_nothing(tmp_path: Path) -> None:
    store = PictureStore(PicturesConfig(folder=tmp_path, quota_mb=0.02, min_free_mb=0, format="png"))
    save_and_wait(store, 1, np.zeros((10, 10, 3), np.uint8))
    save_and_wait(store, 2, np.random.default_rng(1).integers(0, 255, (100, 100, 3), np.uint8))
    store.close()
    assert parts_in(tmp_path) == [1]
    assert (store.saved, store.lost) == (1, 1)


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_the_reserve_of_free_disk_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = 0

    def disk_usage(folder: Path) -> _Usage:
        used = others + sum(path.stat().st_size for path in folder.iterdir())
        return _Usage(2_000_000, used, 2_000_000 - used)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    image = np.random.default_rng(1).integers(0, 255, (100, 100, 3), np.uint8)
    store = PictureStore(PicturesConfig(folder=tmp_path, quota_mb=100, min_free_mb=1.8, format="png"))
    for part in range(10):
        save_and_wait(store, part, image)
        assert disk_usage(tmp_path).free >= 1_800_000
    assert parts_in(tmp_path) == list(range(10))[-len(names(tmp_path)) :]
    assert 5 <= len(names(tmp_path)) < 10
    # Somebody else fills the disk: all pictures make way, and then no more are written.
    others = 300_000
    save_and_wait(store, 10, image)
    save_and_wait(store, 11, image)
    assert names(tmp_path) == []
    assert store.lost == 2
    assert len(caplog.records) == 1
    assert "a record is lost (the disk has 2 MB left, and 2 MB stay free)" in caplog.text
    others = 0
    save_and_wait(store, 12, image)
    assert parts_in(tmp_path) == [12]
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root may mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_that_others_fill(small_disk: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (100, 200, 3), np.uint8)
    store = PictureStore(PicturesConfig(folder=small_disk, quota_mb=100, min_free_mb=0.2, format="png"))
    for part in range(30):
        save_and_wait(store, part, image)
    assert store.lost == 0
    assert parts_in(small_disk) == list(range(30))[-len(names(small_disk)) :]
    assert len(names(small_disk)) >= 8
    assert shutil.disk_usage(small_disk).free >= 0.2e6 - 4096
    (small_disk / "other").write_bytes(b"x" * 200_000)
    with (small_disk / "more").open("wb", buffering=0) as more, pytest.raises(OSError, match="No space"):
        while True:
            more.write(b"x" * 4096)
    for part in range(30, 33):
        save_and_wait(store, part, image)
    (small_disk / "more").unlink()
    (small_disk / "other").unlink()
    save_and_wait(store, 33, image)
    store.close()
    assert store.saved + store.lost == 34
    assert parts_in(small_disk)[-1] == 33
    for path in small_disk.iterdir():
        np.testing.assert_array_equal(read_image(path), image)


def test_a_folder_tidied_by_hand_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECOUNT_S", 0.0)
    image = np.random.default_rng(1).integers(0, 255, (100, 100, 3), np.uint8)
    store = PictureStore(PicturesConfig(folder=tmp_path, quota_mb=0.2, min_free_mb=0, format="png"))
    for part in range(6):
        save_and_wait(store, part, image)
    for name in names(tmp_path)[1:]:
        (tmp_path / name).unlink()
    save_and_wait(store, 6, image)
    assert parts_in(tmp_path) == [0, 6], "what was left need not make way"
    shutil.rmtree(tmp_path)
    save_and_wait(store, 7, image)
    tmp_path.mkdir()
    save_and_wait(store, 8, image)
    store.close()
    assert (store.saved, store.lost, parts_in(tmp_path)) == (8, 1, [8])


def test_saving_never_waits_and_what_does_not_fit_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(path: Path, data: bytes) -> None:
        go_on.wait(20)
        write_atomically(path, data)

    monkeypatch.setattr(module, "write_atomically", slow)
    store = PictureStore(PicturesConfig(folder=tmp_path, min_free_mb=0))
    image = bad_part(1)
    start = time.monotonic()
    for part in range(500):
        store.save(record(part, "reject"), image)
    assert time.monotonic() - start < 2
    waiting = module.MAX_WAITING_PICTURES
    assert 500 - waiting - 1 <= store.lost <= 500 - waiting
    lost = store.lost
    go_on.set()
    store.close()
    assert store.lost == lost
    assert len(names(tmp_path)) == 500 - lost
    assert parts_in(tmp_path)[-waiting:] == list(range(500 - waiting, 500)), "the latest are kept"


def test_a_disk_that_hangs_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()
    monkeypatch.setattr(module, "write_atomically", lambda _path, _data: forever.wait(30))
    monkeypatch.setattr("edge_ad_runtime.sinks.base.CLOSE_PATIENCE_S", 0.2)
    store = PictureStore(PicturesConfig(folder=tmp_path, min_free_mb=0))
    store.save(record(1, "reject"), bad_part(1))
    start = time.monotonic()
    store.close()
    assert time.monotonic() - start < 3
    forever.set()
    assert store.lost == 1


def test_a_bad_picture_does_not_end_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PictureStore(PicturesConfig(folder=tmp_path, min_free_mb=0))
    broken: Any = np.zeros((0, 0, 3), np.uint8)
    store.save(record(1, "reject"), broken)
    store.save(record(2, "reject"), bad_part(2))
    store.close()
    assert parts_in(tmp_path) == [2]
    assert store.lost == len(caplog.records) == 1


def test_the_heat_map_lies_beside_the_picture_on_the_inspected_region(tmp_path: Path) -> None:
    spec = PreprocessSpec(height=32, width=32, roi=Roi(20, 10, 32, 32))
    config = PicturesConfig(folder=tmp_path, format="png", min_free_mb=0, heat_map=True)
    image = good_part(1)
    hot = np.zeros((8, 8), np.float32)
    hot[2, 6] = 50
    store = PictureStore(config, spec)
    store.save(record(1, "reject"), image, hot)
    store.save(record(2, "reject"), image)
    store.close()
    assert [name.partition("_part")[2] for name in names(tmp_path)] == [
        "1_reject_0.5.png",
        "1_reject_0.5_heat.png",
        "2_reject_0.5.png",
    ]
    heat = read_image(tmp_path / names(tmp_path)[1])
    assert heat.shape == image.shape
    colour = heat.max(axis=2).astype(int) - heat.min(axis=2)
    assert not colour[:10].any()
    assert not colour[42:].any()
    assert not colour[:, :20].any()
    assert not colour[:, 52:].any(), "grey outside the region"
    # The hot cell is the one of pixels 24 to 28 across and 8 to 12 down, in the region.
    y, x = np.unravel_index(np.argmax(heat.sum(axis=2).astype(float)), heat.shape[:2])
    assert 18 <= y < 22
    assert 44 <= x < 48
    assert (store.saved, store.lost) == (2, 0)


def test_jpeg_is_what_it_says(tmp_path: Path) -> None:
    store = PictureStore(PicturesConfig(folder=tmp_path, min_free_mb=0))
    smooth = np.full((60, 80, 3), (200, 60, 20), np.uint8)
    store.save(record(1, "reject"), smooth)
    store.close()
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().startswith(b"\xff\xd8")
    assert np.abs(read_image(path).astype(int) - smooth).max() <= 3, "and red is red"
    assert cv2.imread(str(path)) is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quota_mb": 0}, "quota_mb=0"),
        ({"quota_mb": float("nan")}, "quota_mb=nan"),
        ({"min_free_mb": -1}, "min_free_mb=-1"),
        ({"every_nth_pass": -1}, "every_nth_pass=-1"),
        ({"format": "gif"}, "format=gif"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        PicturesConfig(folder=tmp_path, **change)


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"file.*(Not a directory|File exists)"):
        PictureStore(PicturesConfig(folder=tmp_path / "file"))
    with pytest.raises(InputError, match="preprocessing"):
        PictureStore(PicturesConfig(folder=tmp_path, heat_map=True))
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(InputError, match="cannot be written"):
        PictureStore(PicturesConfig(folder=tmp_path))
