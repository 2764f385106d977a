"""Anomaly maps as files, one for each test image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import msgspec
import numpy as np

from edge_ad.evaluation.scored import ScoredImage, output_names
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.files import folder_written_atomically
from edge_ad_runtime.placement import Border, inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.types import FloatArray

try:
    from tqdm import tqdm
except ImportError as error:
    raise MissingExtra("tqdm", "host", "evaluation") from error

MapFormat: TypeAlias = Literal["tiff", "png", "jpg", "npy"]
SCALE = "scale.json"


class GreyScale(msgspec.Struct, frozen=True):
    """The map's values that are drawn black (0) and white (255), the same in all pictures; linear between."""

    black: float
    white: float

    def grey(self, values: FloatArray) -> FloatArray:
        """Values as grey, 0 to 255, not rounded; all 0 when there is only one value."""
        span = self.white - self.black
        if span <= 0:
            return np.zeros_like(values)
        return np.asarray((values - np.float32(self.black)) * np.float32(255 / span), np.float32)


def check_maps_folder(folder: Path, category: str) -> Path:
    """Before hours of work: the folder of the maps, ``folder/category``, which must be new or empty.

    Raises:
        InputError: it is not, or the category is no name for a folder.
    """
    if not category or category in (".", ".."):
        raise InputError("the data set's folder has no name to file its maps under; give its full path")
    out = folder / category
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is not a folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already and is not an empty folder; remove it or choose another")
    return out


def write_maps(
    folder: Path,
    images: Sequence[ScoredImage],
    preprocess: PreprocessSpec,
    *,
    kind: MapFormat = "tiff",
    border: Border = "repeat",
    progress: bool = False,
) -> GreyScale | None:
    """Write the combined maps at the images' full resolution to ``folder/test/KIND/STEM.EXT``.

    With the folder named after the category these are the names that MVTec AD's and LOCO AD's evaluation
    scripts read: ``<maps>/<object>/test/<defect>/<image>.tiff``. The folder appears when it is complete.

    ``tiff`` and ``npy`` are float32, one channel, the values as they are. ``png`` and ``jpg`` are 8-bit grey
    pictures by one linear scale for the whole set, which ``scale.json`` states. Outside a region of interest
    nothing was inspected: there the set's smallest value stands.

    Args:
        folder: new or empty; see :func:`check_maps_folder`.
        images: scored images.
        preprocess: where their maps lie.
        kind: the files' format.
        border: what stands beyond the outermost cells; see :func:`edge_ad_runtime.placement.place_map`.
        progress: show a progress bar on stderr.

    Returns:
        The scale of the grey pictures, None for the other formats.

    Raises:
        OSError: the folder cannot be written.
    """
    lowest = min(float(s.anomaly_map.min()) for s in images)
    highest = max(float(s.anomaly_map.max()) for s in images)
    if border == "zero":
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    scale = GreyScale(lowest, highest) if kind in ("png", "jpg") else None
    with folder_written_atomically(folder) as part:
        for scored, name in zip(
            tqdm(images, desc="maps", unit="image", disable=not progress), output_names(images), strict=True
        ):
            path = part / "test" / scored.image.kind / f"{name}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            full = full_map(scored, preprocess, border, lowest)
            path.write_bytes(encode_map(full if scale is None else scale.grey(full), kind))
        if scale is not None:
            (part / SCALE).write_bytes(msgspec.json.format(msgspec.json.encode(scale)) + b"\n")
    return scale


def full_map(
    scored: ScoredImage, preprocess: PreprocessSpec, border: Border = "repeat", outside: float = 0.0
) -> FloatArray:
    """The map at the image's own resolution, ``float32 HxW``, with ``outside`` where nothing was inspected."""
    placed = place_map(scored.anomaly_map, preprocess, scored.height, scored.width, border)
    if preprocess.roi is None:
        return placed
    region = inspected_region(preprocess, scored.height, scored.width)
    full = np.full((scored.height, scored.width), outside, np.float32)
    full[region.y : region.y + region.height, region.x : region.x + region.width] = placed
    return full


def encode_map(values: FloatArray, kind: MapFormat) -> bytes:
    """A map, ``float32 HxW``, as the bytes of a file; ``png`` and ``jpg`` take grey from 0 to 255 and round it.

    Raises:
        InputError: the format cannot hold a map of this size.
    """
    if kind == "npy":
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        return buffer.getvalue()
    if kind in ("png", "jpg"):
        return _encoded(np.clip(np.rint(values), 0, 255).astype(np.uint8), kind, [])
    # 1: no compression, which every reader has.
    return _encoded(values, kind, [cv2.IMWRITE_TIFF_COMPRESSION, 1])


def _encoded(pixels: np.ndarray, kind: str, options: list[int]) -> bytes:
    done, encoded = cv2.imencode(f".{kind}", pixels, options)
    if not done:
        raise InputError(f"a map of {pixels.shape[1]}x{pixels.shape[0]} cannot be written as {kind}")
    return encoded.tobytes()
