"""Pictures of rejects, of faults and of some passed parts, in a folder that never grows beyond a quota.

A file is named ``NUMBER_TIME_partN_VERDICT[_KIND][_SCORE].jpg``: a number that counts on through all runs, so that the
names sort by age whatever the wall clock did; the wall-clock time (UTC) as a label; the part's number; verdict, kind of
fault, and score. With ``heat_map`` the anomaly map over the image in grey lies beside it, ``…_heat.jpg``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import msgspec

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.files import make_folder, write_atomically
from edge_ad_runtime.heat import heat_panel
from edge_ad_runtime.placement import inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.sinks.base import QueuedSink
from edge_ad_runtime.types import FloatArray, Image

_log = logging.getLogger(__name__)

# Each waiting picture holds a camera image, 6 MB at 1920x1080.
MAX_WAITING_PICTURES = 16
JPEG_QUALITY = 92
_NICENESS = 10
# A folder that was tidied by hand is noticed after this time at the latest.
_RECOUNT_S = 60.0
_OURS = re.compile(r"^(\d{10})_[^/]*_part\d+_(pass|reject|fault)[^/]*\.(jpg|png)$")


class PicturesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which pictures are kept in ``folder``.

    At most ``quota_mb`` of them (1e6 bytes, above 0), and ``min_free_mb`` (at least 0) of the disk stay free; the
    oldest pictures are deleted for it. ``every_nth_pass`` keeps one of so many passed parts, 0 none. ``heat_map`` adds
    the anomaly map.
    """

    folder: Path
    quota_mb: float = 1000.0
    min_free_mb: float = 500.0
    rejects: bool = True
    faults: bool = True
    every_nth_pass: int = 0
    format: Literal["jpg", "png"] = "jpg"
    heat_map: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.quota_mb < float("inf"):
            raise InputError(f"quota_mb={self.quota_mb:g}: must be above 0")
        if not 0 <= self.min_free_mb < float("inf"):
            raise InputError(f"min_free_mb={self.min_free_mb:g}: must be at least 0")
        if self.every_nth_pass < 0:
            raise InputError(f"every_nth_pass={self.every_nth_pass}: must be 0 (none) or more")
        if self.format not in ("jpg", "png"):
            raise InputError(f"format={self.format}: must be 'jpg' or 'png'")


@dataclass(frozen=True)
class _Picture:
    event: PartEvent
    image: Image
    anomaly_map: FloatArray | None


class PictureStore(QueuedSink[_Picture]):
    """Writes pictures from a thread of its own, each atomically; :attr:`lost` counts those that could not be kept."""

    def __init__(self, config: PicturesConfig, preprocess: PreprocessSpec | None = None) -> None:
        """Make the folder where it is missing and count what it holds.

        Args:
            config: what to keep.
            preprocess: where in an image its anomaly map lies; needed for heat maps only.

        Raises:
            InputError: the folder cannot be written, or heat maps are asked for without ``preprocess``.
        """
        super().__init__(f"pictures:{config.folder}", MAX_WAITING_PICTURES)
        if config.heat_map and preprocess is None:
            raise InputError("heat maps can only be drawn with the preprocessing of the bundle")
        self._config = config
        self._preprocess = preprocess
        self._passes = 0
        self._kept: deque[tuple[Path, int]] = deque()
        self._bytes = 0
        try:
            make_folder(config.folder)
            self._count_kept()
        except OSError as error:
            raise InputError(f"pictures folder {config.folder}: {error.strerror or error}") from error
        if not os.access(config.folder, os.W_OK | os.X_OK):
            raise InputError(f"pictures folder {config.folder}: cannot be written")
        self._next = 1 + max((_number(path) for path, _ in self._kept), default=0)
        self._start()

    @property
    def saved(self) -> int:
        """Parts whose picture has been written."""
        with self._changed:
            return self._delivered

    def save(self, event: PartEvent, image: Image, anomaly_map: FloatArray | None = None) -> None:
        """Keep a part's picture if it is one of those to keep; never waits.

        ``image`` (``uint8 HxWx3`` RGB of any strides) and ``anomaly_map`` (``float32 hxw``) are not copied and must not be changed
        afterwards.
        """
        if self._wants(event):
            self._put(_Picture(event, image, anomaly_map))

    def _wants(self, event: PartEvent) -> bool:
        if event.verdict == "reject":
            return self._config.rejects
        if event.verdict == "fault":
            return self._config.faults
        self._passes += 1
        every = self._config.every_nth_pass
        return every > 0 and self._passes % every == 0

    def _run(self) -> None:
        # Linux has a niceness for each thread: encoding must not take the engine's time.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._thread.native_id or 0, _NICENESS)
        while pictures := self._take():
            try:
                self._keep(pictures[0])
            except Exception as error:  # noqa: BLE001, PERF203 - one bad picture must not end all others
                self._lose(1, str(error) or type(error).__name__)
            else:
                self._deliver()

    def _keep(self, picture: _Picture) -> None:
        """
        Raises:
            OSError: the disk is full or broken, or the quota too small for a single picture.
        """
        files = {self._path(picture.event, ""): self._encode(picture.image)}
        if self._config.heat_map and self._preprocess is not None and picture.anomaly_map is not None:
            heat = _heat(picture, picture.anomaly_map, self._preprocess)
            files[self._path(picture.event, "_heat")] = self._encode(heat)
        self._next += 1
        self._make_room(sum(len(data) for data in files.values()))
        for path, data in files.items():
            write_atomically(path, data)
            self._kept.append((path, len(data)))
            self._bytes += len(data)

    def _path(self, event: PartEvent, suffix: str) -> Path:
        label = re.sub(r"[^0-9T]", "", event.time[:19])
        kind = f"_{event.fault_kind.value}" if event.fault_kind is not None else ""
        score = f"_{event.score:.4g}" if event.score is not None else ""
        name = f"{self._next:010d}_{label}_part{event.part}_{event.verdict}{kind}{score}{suffix}"
        return self._config.folder / f"{name}.{self._config.format}"

    def _encode(self, image: Image) -> bytes:
        options = {
            "jpg": [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY],
            # The fastest: on camera noise, better compression gains little.
            "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        }[self._config.format]
        # A view of what the camera gave as BGR needs no conversion.
        bgr = image[:, :, ::-1] if image.strides[2] < 0 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        good, data = cv2.imencode(f".{self._config.format}", bgr, options)
        if not good:
            raise OSError("the picture cannot be encoded")
        return data.tobytes()

    def _make_room(self, size: int) -> None:
        """Delete the oldest pictures until ``size`` more bytes fit.

        Raises:
            OSError: they do not fit even without all others.
        """
        quota = self._config.quota_mb * 1e6
        if self._bytes + size > quota and time.monotonic() - self._counted_at > _RECOUNT_S:
            self._count_kept()
        if size > quota:
            raise OSError(f"a picture of {size / 1e6:.1f} MB is more than the quota")
        while self._bytes + size > quota and self._kept:
            self._delete_oldest()
        reserve = self._config.min_free_mb * 1e6
        while (free := shutil.disk_usage(self._config.folder).free) - size < reserve:
            if not self._kept:
                raise OSError(f"the disk has {free / 1e6:.0f} MB left, and {reserve / 1e6:.0f} MB stay free")
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        path, size = self._kept[0]
        path.unlink(missing_ok=True)
        self._kept.popleft()
        self._bytes -= size

    def _count_kept(self) -> None:
        """Look at the folder: the pictures of this and earlier runs, the oldest first."""
        found: list[tuple[Path, int]] = []
        with os.scandir(self._config.folder) as entries:
            for entry in entries:
                # Somebody may delete files meanwhile.
                with suppress(FileNotFoundError):
                    if _OURS.match(entry.name) and entry.is_file(follow_symlinks=False):
                        found.append((Path(entry.path), entry.stat(follow_symlinks=False).st_size))
        self._kept = deque(sorted(found))
        self._bytes = sum(size for _, size in found)
        self._counted_at = time.monotonic()


def _number(path: Path) -> int:
    return int(path.name[:10])


def _heat(picture: _Picture, anomaly_map: FloatArray, spec: PreprocessSpec) -> Image:
    height, width = picture.image.shape[:2]
    return heat_panel(
        picture.image,
        place_map(anomaly_map, spec, height, width),
        inspected_region(spec, height, width),
        (height, width),
        picture.event.threshold,
        None,
    )
