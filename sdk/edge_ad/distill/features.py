"""What goes into a feature extractor and what comes out: value range, layout, order of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ad.nets.model import normalize, to_tensor
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

InputRange = Literal["imagenet", "0..1", "-1..1", "uint8"]
"""Values that an extractor wants: 0 to 1 minus ImageNet's mean over its deviation, 0 to 1, -1 to 1, 0 to 255."""

INPUT_RANGES: tuple[InputRange, ...] = get_args(InputRange)
_LARGEST_STRIDE = 64


@dataclass(frozen=True)
class Layer:
    """One tapped layer: its name, how the file lays it out, and its shape for the images last seen."""

    name: str
    layout: Literal["NCHW", "NHWC"]
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.name} ({self.layout}, {self.channels} channels, {self.width}x{self.height} cells)"


@dataclass(frozen=True)
class Features:
    """The layers of one call, finest grid first: ``float32 NxCxhxw`` each."""

    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]


def input_batch(images: Sequence[Image], values: InputRange) -> Tensor:
    """Equally sized ``uint8 HxWx3`` images as ``float32 Nx3xHxW`` in the range that the extractor wants."""
    batch = to_tensor(np.stack(list(images)))
    if values == "imagenet":
        return normalize(batch)
    if values == "-1..1":
        return batch * 2 - 1
    return batch * 255 if values == "uint8" else batch


def read_features(
    outputs: Sequence[tuple[str, Tensor]], height: int, width: int, channels_last_input: bool = False
) -> Features:
    """Bring an extractor's raw outputs into one form.

    The layout is that in which the grid divides the image evenly; where both would do (as many channels
    as cells in a row), the other layer's layout decides, then the input's.

    Args:
        outputs: one or two outputs with their names.
        height: of the images, in pixels.
        width: of the images, in pixels.
        channels_last_input: whether the extractor takes ``NHWC``.

    Raises:
        InputError: not one or two feature maps, or the finer one is not at 1/8 of the image's size.
    """
    if not 1 <= len(outputs) <= 2:
        names = ", ".join(name for name, _ in outputs)
        raise InputError(
            f"the extractor has {len(outputs)} outputs ({names}); name one or two of them with --layers"
        )
    options = [_layouts(name, t, height, width) for name, t in outputs]
    known = [o[0] for o in options if len(o) == 1]
    doubtful: Literal["NCHW", "NHWC"] = known[0] if known else "NHWC" if channels_last_input else "NCHW"
    read: list[tuple[Layer, Tensor]] = []
    for (name, raw), layouts in zip(outputs, options, strict=True):
        layout = layouts[0] if len(layouts) == 1 else doubtful
        tensor = (raw if layout == "NCHW" else raw.permute(0, 3, 1, 2)).float()
        read.append((Layer(name, layout, tensor.shape[1], tensor.shape[2], tensor.shape[3]), tensor))
    read.sort(key=lambda item: -item[0].height)
    finest = read[0][0]
    if (finest.height * 8, finest.width * 8) != (height, width):
        raise InputError(
            f"the extractor's finest layer is {finest} for {width}x{height} px; "
            f"a layer at 1/8 ({width // 8}x{height // 8}) is needed, choose another with --layers"
        )
    return Features(tuple(layer for layer, _ in read), tuple(tensor for _, tensor in read))


def _layouts(name: str, raw: Tensor, height: int, width: int) -> list[Literal["NCHW", "NHWC"]]:
    shape = "x".join(map(str, raw.shape))
    found: list[Literal["NCHW", "NHWC"]] = []
    if raw.ndim == 4:
        if is_grid(raw.shape[2], raw.shape[3], height, width):
            found.append("NCHW")
        if is_grid(raw.shape[1], raw.shape[2], height, width):
            found.append("NHWC")
    if not found:
        raise InputError(
            f"the extractor's output '{name}' is {shape} for {width}x{height} px: not a feature map; "
            "name two layers with --layers"
        )
    return found


def is_grid(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether ``rows`` x ``columns`` cells of a whole stride from 2 to 64 px fill the image."""
    if min(rows, columns) < 1 or height % rows or width % columns:
        return False
    return height // rows == width // columns and 2 <= height // rows <= _LARGEST_STRIDE


def patch_features(layers: Sequence[Tensor]) -> Tensor:
    """Join layers into one descriptor for each cell of the first, as PatchCore does (arXiv 2106.08265, 3.1).

    Each layer is averaged over 3x3 cells, the others resized bilinearly to the first one's grid.

    Args:
        layers: ``float32 NxCxhxw`` each, the finest grid first.

    Returns:
        ``float32 NxFxhxw``, F the sum of the layers' channels.
    """
    means = [F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) for x in layers]
    grid = means[0].shape[-2:]
    rest = [F.interpolate(x, size=grid, mode="bilinear", align_corners=False) for x in means[1:]]
    return torch.cat([means[0], *rest], 1)
