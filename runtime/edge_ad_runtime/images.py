"""Reading image files: every format, depth and orientation becomes the same uint8 RGB array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime import tiff
from edge_ad_runtime.containers import (
    BMP_START,
    JPEG_START,
    PNG_START,
    check_bmp,
    check_jpeg,
    check_png,
    check_webp,
    is_webp,
)
from edge_ad_runtime.errors import ImageError
from edge_ad_runtime.types import Image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_NOT_AN_IMAGE = (
    "this is not a readable image (PNG, JPEG, BMP, TIFF and WebP are supported); remove it or save it again"
)


def is_image_path(path: Path) -> bool:
    """Whether the file name ends like one of the supported formats (the content is not looked at)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """All image files directly in ``folder``, sorted by name.

    A link that leads nowhere is listed too, so that reading it names it instead of leaving it out.

    Raises:
        ImageError: the folder is missing, is not a folder, or cannot be read.
    """
    try:
        found = [p for p in folder.iterdir() if is_image_path(p)]
    except OSError as error:
        raise ImageError(f"{folder}: is not a readable folder ({error.strerror or error})") from error
    return sorted(p for p in found if p.is_file() or not p.exists())


def read_image(path: Path) -> Image:
    """Read an image file as ``uint8 HxWx3`` RGB.

    The content decides the format, not the name. Grey becomes three equal channels, a palette its colours,
    alpha is dropped (the colours beneath it stay as stored), 16 bits keep their upper 8, and the EXIF
    orientation is applied; colour profiles are not. The same pixels give the same array in every lossless
    format.

    Not supported, and an error: several pictures in one file (TIFF pages other than thumbnails and masks,
    animated WebP and PNG), CMYK, floating-point and signed TIFF, compressed BMP.

    Raises:
        ImageError: the file is missing, empty, cut off, damaged, of an unsupported kind, or not an image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return decode_image(data)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def decode_image(data: bytes) -> Image:
    """Decode an encoded image to ``uint8 HxWx3`` RGB; see :func:`read_image`.

    Raises:
        ImageError: the bytes are empty, cut off, damaged, of an unsupported kind, or not an image.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    if data.startswith(JPEG_START):
        check_jpeg(data)
    elif data.startswith(PNG_START):
        check_png(data)
    elif data.startswith(BMP_START):
        check_bmp(data)
    elif is_webp(data):
        check_webp(data)
    elif data.startswith(tiff.STARTS):
        whole = tiff.check_tiff(data)
        if whole.bits == 16:
            return _upper_eight_bits(_decode(whole.data, cv2.IMREAD_UNCHANGED))
        data = whole.data
    else:
        raise ImageError(_NOT_AN_IMAGE)
    return np.asarray(_decode(data, cv2.IMREAD_COLOR_RGB), np.uint8)


def _decode(data: bytes, flags: int) -> npt.NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"the image is damaged ({error.err}); copy it again or remove it") from error
    if pixels is None:
        raise ImageError(
            "the image is damaged, or of a variant that is not supported; copy it again, or save it as PNG"
        )
    return pixels


def _upper_eight_bits(pixels: npt.NDArray[Any]) -> Image:
    """``uint16`` grey, BGR or BGRA to ``uint8`` RGB, as OpenCV does for PNG; for TIFF it rounds and swaps."""
    if pixels.dtype != np.uint16:
        raise ImageError("a TIFF of this variant is not supported; save it as 8- or 16-bit PNG")
    eight = np.right_shift(pixels, 8).astype(np.uint8)
    if eight.ndim == 2:
        return np.repeat(eight[:, :, None], 3, axis=2)
    return np.ascontiguousarray(eight[:, :, 2::-1])
