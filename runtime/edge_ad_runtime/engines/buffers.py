"""What engines that read and write the caller's memory check and keep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_ad_runtime.errors import BundleError, InputError
from edge_ad_runtime.types import Image

Shape = tuple[int, ...]


def fixed_shape(name: str, shape: Sequence[object], rank: int) -> Shape:
    """The shape of a graph's input or output, ``rank`` whole numbers, the first of them 1.

    Raises:
        BundleError: it is another one, or left open.
    """
    sizes = tuple(size for size in shape if isinstance(size, int) and size > 0)
    if len(sizes) != len(shape) or len(sizes) != rank or sizes[0] != 1:
        raise BundleError(
            f"the model's '{name}' has the shape {list(shape)}, which edge-ad cannot run; convert it again"
        )
    return sizes


def contiguous(batch: Image, shape: Shape) -> Image:
    """The image itself where its memory can be read as it is, else a copy. (OpenVINO refuses memory that it may not write
    to, though it only reads.)

    Raises:
        InputError: it has another size or type than the engine's.
    """
    if batch.shape != shape or batch.dtype != np.uint8:
        raise InputError(f"the engine takes uint8 {shape}, this is {batch.dtype} {batch.shape}")
    return batch if batch.flags.c_contiguous and batch.flags.writeable else np.array(batch, order="C")
