"""Image files as the networks take them."""

from __future__ import annotations

from pathlib import Path

from edge_ad_runtime.errors import DataError, InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.types import Image


def read_input(path: Path, spec: PreprocessSpec) -> Image:
    """Read and preprocess an image, ``uint8 1xHxWx3`` RGB.

    Raises:
        DataError: the region of interest does not fit in it.
        ImageError: it cannot be read.
    """
    image = read_image(path)
    try:
        return preprocess(image, spec)
    except InputError as error:
        raise DataError(f"{path}: {error}") from error
