"""The one preprocessing of edge-ad, used by training, calibration readers and the camera loop alike."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.resizing import Workspace, resize
from edge_ad_runtime.tiling import TileGrid, TileSpec
from edge_ad_runtime.types import Image

__all__ = ["PreprocessSpec", "Roi", "Workspace", "in_words", "preprocess", "resize"]


class Roi(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region of interest in pixels of the camera's image: left, top, width and height."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            raise InputError(
                f"region of interest {self.x},{self.y},{self.width},{self.height}: "
                "x and y must be at least 0, width and height at least 1"
            )


class PreprocessSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a camera image becomes the network's input.

    ``height`` and ``width`` are the size in pixels that it is resized to; ``roi`` is cut out first.
    ``interpolation`` names the resizing: ``area`` averages the source pixels when shrinking (no
    aliasing) and is bilinear when enlarging. ``tiles`` are what the network sees of the resized image, one
    at a time; None is all of it at once.
    """

    height: int
    width: int
    roi: Roi | None = None
    interpolation: Literal["area"] = "area"
    tiles: TileSpec | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"input size {self.width}x{self.height}: both must be at least 1")
        if self.tiles is not None:
            # Made to be checked.
            TileGrid(self.tiles, self.height, self.width)

    @property
    def grid(self) -> TileGrid | None:
        """Where the tiles lie; None where there are none."""
        return None if self.tiles is None else TileGrid(self.tiles, self.height, self.width)

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels: a tile's, or the whole image's."""
        return (self.height, self.width) if self.tiles is None else (self.tiles.height, self.tiles.width)


def in_words(spec: PreprocessSpec) -> str:
    """Size, tiles and region of interest, for people."""
    tiles = ""
    if spec.tiles is not None and spec.grid is not None:
        tiles = f" in {len(spec.grid)} tiles of {spec.tiles.width}x{spec.tiles.height} px"
    cut = "" if (r := spec.roi) is None else f", cut out {r.width}x{r.height} at {r.x},{r.y}"
    return f"{spec.width}x{spec.height} px{tiles}{cut}"


def preprocess(image: Image, spec: PreprocessSpec, workspace: Workspace | None = None) -> Image:
    """``uint8 HxWx3`` RGB to ``uint8 1xhxwx3`` RGB, as the graph takes it (or, with tiles, all of them).

    The input is never changed, whatever its strides. The result is contiguous. With a ``workspace`` of the spec's
    size it is that one's ``batch``, which the next image overwrites. Without, it shares memory with the input where
    nothing is cut out or resized, so use it before the camera fills that memory again. The pixels are the same.

    Raises:
        InputError: the image is not ``uint8 HxWx3`` or has no pixels, the region of interest does not lie
            inside it, or the workspace has another size.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"the image is {image.dtype} {image.shape}, expected uint8 HxWx3")
    if (roi := spec.roi) is not None:
        height, width = image.shape[:2]
        if roi.x + roi.width > width or roi.y + roi.height > height:
            raise InputError(
                f"the region of interest {roi.x},{roi.y},{roi.width},{roi.height} "
                f"does not fit in the {width}x{height} image"
            )
        image = image[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]
    if workspace is None:
        return resize(image, spec.height, spec.width)[None]
    if workspace.batch.shape != (1, spec.height, spec.width, 3):
        raise InputError(f"the workspace is {workspace.batch.shape}, the input {spec.height}x{spec.width}")
    return workspace.resize(image)
