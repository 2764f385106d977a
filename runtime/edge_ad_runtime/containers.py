"""Looking at an image file's structure before it is decoded.

OpenCV 4 can return an image of a cut file with grey in place of what is missing, and every
version takes the first of several pictures and reads some rare variants with wrong colours, all without a
word. Each check here walks a format's structure far enough to notice and raises :class:`ImageError` instead.
Bytes after the image's end do no harm.

Sources: ITU-T T.81 annex B (JPEG), W3C PNG third edition, the BITMAPINFOHEADER pages of the Windows API
(BMP), RFC 9649 (WebP).
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

from edge_ad_runtime.errors import ImageError

JPEG_START = b"\xff\xd8"
PNG_START = b"\x89PNG\r\n\x1a\n"
BMP_START = b"BM"

# A marker inside entropy-coded data: FF is stuffed with 00 there, D0 to D7 restart, FF before FF is filling.
_JPEG_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BMP_PLAIN, _BMP_MASKS = 0, 3
_BMP_COMMON_MASKS = {
    16: ((0x7C00, 0x03E0, 0x001F), (0xF800, 0x07E0, 0x001F)),
    32: ((0xFF0000, 0xFF00, 0xFF),),
}


def cut_off(what: str) -> ImageError:
    """The error for a file that ends too early; ``what`` says what is missing."""
    return ImageError(f"the file is cut off: {what}. Copy it again or remove it")


def unpack(layout: str, data: bytes, offset: int) -> tuple[Any, ...]:
    """``struct.unpack_from``; an offset past the end is a file that is cut off."""
    try:
        return struct.unpack_from(layout, data, offset)
    except (struct.error, OverflowError):  # BigTIFF's offsets may exceed what Python can index
        raise cut_off(f"something at byte {offset} is needed, it has {len(data)}") from None


def check_jpeg(data: bytes) -> None:
    """Follow the markers to the end marker.

    Raises:
        ImageError: it is cut off, has four colour channels (CMYK), or not 8 bits a channel.
    """
    position, scans = len(JPEG_START), 0
    while True:
        position = data.find(b"\xff", position)
        while position >= 0 and data[position : position + 1] == b"\xff":
            position += 1
        if not 0 <= position < len(data):
            raise cut_off("the JPEG end marker is missing")
        marker, position = data[position], position + 1
        if marker == 0xD9:
            if not scans:
                raise ImageError("the JPEG holds no image data; remove it or save it again")
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = unpack(">H", data, position)
        if marker in _JPEG_FRAMES:
            bits, _, _, channels = unpack(">BHHB", data, position + 2)
            if bits != 8 or channels not in (1, 3):
                raise ImageError(
                    f"a JPEG with {channels} channels of {bits} bits is not supported (4 channels are CMYK); "
                    "save it as grey or RGB with 8 bits"
                )
        position += length
        if marker == 0xDA:
            scans += 1
            end = _JPEG_NEXT_MARKER.search(data, position)
            if end is None:
                raise cut_off("the JPEG end marker is missing")
            position = end.start()


def check_png(data: bytes) -> None:
    """Follow the chunks to the end chunk and check the checksums of the critical ones.

    Raises:
        ImageError: it is cut off, damaged, or animated.
    """
    position = len(PNG_START)
    while True:
        if position + 12 > len(data):
            raise cut_off("the PNG end chunk is missing")
        length, kind = unpack(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise cut_off(f"{len(data)} of at least {end} bytes")
        if kind == b"acTL":
            raise several("an animated PNG")
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(data[position + 4 : end - 4]) != unpack(">I", data, end - 4)[0]:
            raise ImageError("the PNG is damaged (a checksum is wrong); copy it again or remove it")
        if kind == b"IEND":
            return
        position = end


def check_bmp(data: bytes) -> None:
    """Compare the file's length with what its header needs.

    The header's own file size is not believed: some cameras leave it 0.

    Raises:
        ImageError: it is cut off, run-length coded, or has unusual channel masks.
    """
    start, header = unpack("<II", data, 10)
    if header == 12:
        width, height, _, bits = unpack("<HHHH", data, 18)
        compression = _BMP_PLAIN
    else:
        width, height, _, bits, compression = unpack("<iiHHI", data, 18)
    if compression == _BMP_MASKS:
        # OpenCV ignores the masks behind a 40-byte header, which swaps colours.
        masks = unpack("<III", data, 54)
        if masks not in _BMP_COMMON_MASKS.get(bits, ()):
            raise ImageError(f"a BMP with the channel masks {masks} is not supported; save it as PNG")
    elif compression != _BMP_PLAIN:
        raise ImageError("a compressed BMP is not supported; save it uncompressed, or as PNG")
    needed = start + (width * bits + 31) // 32 * 4 * abs(height)
    if needed > len(data):
        raise cut_off(f"{len(data)} of {needed} bytes")


def is_webp(data: bytes) -> bool:
    """Whether the bytes begin like a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def check_webp(data: bytes) -> None:
    """Compare the file's length with its header's.

    Raises:
        ImageError: it is cut off or animated.
    """
    needed = unpack("<I", data, 4)[0] + 8
    if needed > len(data):
        raise cut_off(f"{len(data)} of {needed} bytes")
    if data[12:16] == b"VP8X" and unpack("<B", data, 20)[0] & 0x02:
        raise several("an animated WebP")


def several(what: str) -> ImageError:
    """The error for a file with several pictures: taking one of them silently would be a guess."""
    return ImageError(f"{what} holds several pictures; save the one you mean as a file of its own")
