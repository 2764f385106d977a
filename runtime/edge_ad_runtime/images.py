"""Reading image files: every format, depth and orientation becomes the same uint8 RGB array."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from edge_ad_runtime.errors import ImageError
from edge_ad_runtime.types import Image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def is_image_path(path: Path) -> bool:
    """Whether the file name ends like one of the supported formats (the content is not looked at)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """All image files directly in ``folder``, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and is_image_path(p))


def read_image(path: Path) -> Image:
    """Read an image file as ``uint8 HxWx3`` RGB.

    Grey becomes three equal channels, alpha is dropped, 16 bits keep their upper 8, and the EXIF
    orientation is applied.

    Raises:
        ImageError: the file is missing, empty, cut off, damaged, or not an image.
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
        ImageError: the bytes are empty, cut off, damaged, or not an image.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    problem = _truncation(data)
    if problem:
        raise ImageError(f"the file is cut off: {problem}. Copy it again or remove it")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ImageError(f"the image is damaged ({error.err})") from error
    if pixels is None:
        raise ImageError(
            "this is not a readable image (PNG, JPEG, BMP, TIFF and WebP are supported); "
            "remove it or save it again"
        )
    return np.asarray(pixels, np.uint8)


def _truncation(data: bytes) -> str | None:
    """Say how the file is cut off, or None; OpenCV fills the missing part with grey and says nothing."""
    if data[:2] == b"\xff\xd8":
        # FF inside entropy-coded data is always stuffed, so the last end marker must follow the last scan.
        if data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
            return "the JPEG end marker is missing"
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        if b"IEND" not in data[-64:]:
            return "the PNG end chunk is missing"
    elif data[:2] == b"BM" and len(data) >= 6:
        if (size := struct.unpack_from("<I", data, 2)[0]) > len(data):
            return f"{len(data)} of {size} bytes"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if (size := struct.unpack_from("<I", data, 4)[0] + 8) > len(data):
            return f"{len(data)} of {size} bytes"
    return None
