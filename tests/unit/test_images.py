"""Reading images: what every format must give, and what must be an error."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from edge_ad_runtime.errors import ImageError
from edge_ad_runtime.images import decode_image, is_image_path, list_images, read_image

Pixels = npt.NDArray[np.uint8]

RNG = np.random.default_rng(0)
RGB: Pixels = RNG.integers(0, 256, (13, 17, 3), np.uint8)
RGB16 = RNG.integers(0, 65536, (13, 17, 3), np.uint16)
ALPHA: Pixels = RNG.integers(0, 256, (13, 17, 1), np.uint8)
ALPHA16 = RNG.integers(0, 65536, (13, 17, 1), np.uint16)
LOSSLESS = ("PNG", "BMP", "TIFF", "WEBP")


def pillow(pixels: Any, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Pillow.Image) else Pillow.fromarray(pixels)
    if kind == "WEBP" and "quality" not in options:
        options = {"lossless": True, "exact": True, **options}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def as_tiff(pixels: npt.NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def opencv_png(pixels: npt.NDArray[Any]) -> bytes:
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, order]))[1].tobytes()


def grey3(grey: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(grey.reshape(*grey.shape[:2], 1), 3, axis=2)


def same(data: bytes, expected: npt.NDArray[Any]) -> None:
    got = decode_image(data)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", LOSSLESS)
class TestLossless:
    def test_rgb(self, kind: str) -> None:
        same(pillow(RGB, kind), RGB)

    def test_grey(self, kind: str) -> None:
        same(pillow(RGB[..., 0], kind), grey3(RGB[..., 0]))

    def test_alpha_is_dropped_and_colours_stay(self, kind: str) -> None:
        same(pillow(np.dstack([RGB, ALPHA]), kind), RGB)

    def test_bilevel(self, kind: str) -> None:
        on = RGB[..., 0] > 128
        same(pillow(on, kind), grey3(on * np.uint8(255)))

    def test_palette(self, kind: str) -> None:
        palette = Pillow.fromarray(RGB).quantize(16)
        same(pillow(palette, kind), np.asarray(palette.convert("RGB")))

    def test_grey_with_alpha(self, kind: str) -> None:
        if kind == "BMP":
            with pytest.raises(OSError, match="cannot write mode LA"):
                pillow(Pillow.fromarray(np.dstack([RGB[..., :1], ALPHA]), "LA"), kind)
            return
        image = Pillow.merge("LA", (Pillow.fromarray(RGB[..., 0]), Pillow.fromarray(ALPHA[..., 0])))
        same(pillow(image, kind), grey3(RGB[..., 0]))

    def test_one_pixel(self, kind: str) -> None:
        same(pillow(RGB[:1, :1], kind), RGB[:1, :1])

    def test_bytes_after_the_end_do_no_harm(self, kind: str) -> None:
        same(pillow(RGB, kind) + b"\0" * 1000, RGB)


class TestSixteenBits:
    upper = (RGB16 >> 8).astype(np.uint8)

    def test_png(self) -> None:
        same(opencv_png(RGB16), self.upper)
        same(opencv_png(np.dstack([RGB16, ALPHA16])), self.upper)
        same(pillow(RGB16[..., 0], "PNG"), grey3(self.upper[..., 0]))

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"byteorder": ">"},
            {"bigtiff": True},
            {"bigtiff": True, "byteorder": ">"},
            {"compression": "zlib", "predictor": True},
            {"tile": (16, 16)},
            {"rowsperstrip": 2},
        ],
        ids=str,
    )
    def test_tiff(self, options: dict[str, Any]) -> None:
        same(as_tiff(RGB16, photometric="rgb", **options), self.upper)
        same(as_tiff(RGB16[..., 0], photometric="minisblack", **options), grey3(self.upper[..., 0]))

    @pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha", "unspecified"])
    def test_tiff_alpha(self, alpha: str) -> None:
        pixels = np.dstack([RGB16, ALPHA16])
        same(as_tiff(pixels, photometric="rgb", extrasamples=[alpha]), self.upper)

    @pytest.mark.parametrize(
        ("pixels", "options"),
        [
            (np.moveaxis(RGB16, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
            (RGB16[..., 0], {"photometric": "miniswhite"}),
            (RGB16[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
        ],
        ids=["planar", "white is zero", "grey with alpha"],
    )
    def test_tiff_variants_that_opencv_reads_wrongly(
        self, pixels: npt.NDArray[Any], options: dict[str, Any]
    ) -> None:
        with pytest.raises(ImageError, match="16-bit TIFF"):
            decode_image(as_tiff(pixels, **options))


class TestTiff:
    @pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha", "unspecified"])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("big", [False, True])
    def test_alpha(self, alpha: str, order: Any, big: bool) -> None:
        pixels = np.dstack([RGB, ALPHA])
        data = as_tiff(pixels, photometric="rgb", extrasamples=[alpha], byteorder=order, bigtiff=big)
        same(data, RGB)

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits"])
    def test_compression(self, compression: str) -> None:
        same(pillow(RGB, "TIFF", compression=compression), RGB)

    def test_planes_and_tiles(self) -> None:
        same(as_tiff(np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate"), RGB)
        same(as_tiff(RGB, photometric="rgb", tile=(32, 32)), RGB)

    def test_white_is_zero(self) -> None:
        same(as_tiff(RGB[..., 0], photometric="miniswhite"), grey3(255 - RGB[..., 0]))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (as_tiff(RGB.astype(np.float32), photometric="rgb"), "floating-point"),
            (as_tiff(RGB[..., 0].astype(np.float64)), "floating-point"),
            (as_tiff(RGB[..., 0].astype(np.int16)), "signed"),
            (as_tiff(RGB.astype(np.int8), photometric="rgb"), "signed"),
            (as_tiff(RGB[..., 0].astype(np.uint32)), "32 bits"),
            (pillow(Pillow.fromarray(RGB).convert("CMYK"), "TIFF"), "CMYK"),
            (pillow(Pillow.fromarray(RGB).convert("LAB"), "TIFF"), "CIELAB"),
            (as_tiff(np.dstack([RGB, ALPHA, ALPHA]), photometric="rgb"), "5 channels"),
        ],
        ids=["float32", "float64", "int16", "int8", "uint32", "cmyk", "lab", "5 channels"],
    )
    def test_unsupported(self, data: bytes, message: str) -> None:
        with pytest.raises(ImageError, match=message):
            decode_image(data)

    def test_several_pages(self) -> None:
        second = Pillow.fromarray(255 - RGB)
        with pytest.raises(ImageError, match="several pictures"):
            decode_image(pillow(RGB, "TIFF", save_all=True, append_images=[second]))

    def test_a_thumbnail_page_is_no_second_picture(self) -> None:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(RGB, photometric="rgb")
            writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
        same(buffer.getvalue(), RGB)

    def test_pages_in_a_circle(self) -> None:
        data = bytearray(as_tiff(RGB, photometric="rgb", metadata=None))
        (first,) = struct.unpack_from("<I", data, 4)
        (entries,) = struct.unpack_from("<H", data, first)
        struct.pack_into("<I", data, first + 2 + 12 * entries, first)
        with pytest.raises(ImageError, match="several pictures"):
            decode_image(bytes(data))


class TestBmp:
    @staticmethod
    def bmp(bits: int, compression: int, masks: tuple[int, ...], pixels: bytes, size: int = 0) -> bytes:
        extra = b"".join(struct.pack("<I", m) for m in masks)
        start = 54 + len(extra)
        header = struct.pack("<IiiHHIIiiII", 40, 2, -1, 1, bits, compression, len(pixels), 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", size, 0, 0, start) + header + extra + pixels

    def test_top_down_and_without_a_file_size(self) -> None:
        same(self.bmp(32, 0, (), bytes(range(1, 9))), np.array([[[3, 2, 1], [7, 6, 5]]]))

    def test_common_masks(self) -> None:
        same(
            self.bmp(32, 3, (0xFF0000, 0xFF00, 0xFF), bytes(range(1, 9))), np.array([[[3, 2, 1], [7, 6, 5]]])
        )
        data = self.bmp(16, 3, (0xF800, 0x7E0, 0x1F), struct.pack("<HH", 0xF800, 0x001F))
        same(data, np.array([[[248, 0, 0], [0, 0, 248]]]))

    def test_masks_that_opencv_ignores(self) -> None:
        with pytest.raises(ImageError, match="channel masks"):
            decode_image(self.bmp(32, 3, (0xFF, 0xFF00, 0xFF0000), bytes(range(1, 9))))

    def test_run_lengths(self) -> None:
        with pytest.raises(ImageError, match="compressed BMP"):
            decode_image(self.bmp(8, 1, (), b"\2\0\0\1"))

    def test_old_header(self) -> None:
        pixels = b"\1\2\3\4\5\6\0\0"
        data = b"BM" + struct.pack("<IHHI", 34, 0, 0, 26) + struct.pack("<IHHHH", 12, 2, 1, 1, 24) + pixels
        same(data, np.array([[[3, 2, 1], [6, 5, 4]]]))
        with pytest.raises(ImageError, match="cut off"):
            decode_image(data[:-1])


class TestJpeg:
    def smooth(self) -> Pixels:
        return np.dstack([np.add.outer(np.arange(40), np.arange(56)) * k for k in (1, 2, 2)]).astype(np.uint8)

    @pytest.mark.parametrize("progressive", [False, True])
    def test_near_the_original(self, progressive: bool) -> None:
        image = self.smooth()
        data = pillow(image, "JPEG", quality=95, subsampling=0, progressive=progressive)
        assert np.abs(decode_image(data).astype(int) - image).max() <= 8

    def test_grey(self) -> None:
        got = decode_image(pillow(self.smooth()[..., 0], "JPEG", quality=95))
        assert (got[..., 0] == got[..., 1]).all() and (got[..., 0] == got[..., 2]).all()
        assert np.abs(got[..., 0].astype(int) - self.smooth()[..., 0]).max() <= 8

    def test_cmyk(self) -> None:
        with pytest.raises(ImageError, match="CMYK"):
            decode_image(pillow(Pillow.fromarray(RGB).convert("CMYK"), "JPEG"))

    def test_the_end_of_a_thumbnail_is_not_the_end(self) -> None:
        """EXIF may hold a whole JPEG with an end marker of its own."""
        data = pillow(self.smooth(), "JPEG")
        thumbnail = pillow(self.smooth()[::4, ::4], "JPEG")
        segment = b"Exif\0\0" + thumbnail
        whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
        same(whole, decode_image(data))
        for cut in range(1, len(whole), 7):
            with pytest.raises(ImageError):
                decode_image(whole[:cut])

    def test_a_second_picture_behind_the_first(self) -> None:
        """Phones append a preview (MPF); the first picture is whole without it."""
        data = pillow(self.smooth(), "JPEG")
        same(data + data[: len(data) // 2], decode_image(data))

    def test_restart_markers_and_filling(self) -> None:
        bgr = np.ascontiguousarray(self.smooth()[..., ::-1])
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
        assert b"\xff\xd0" in data
        filled = data.replace(b"\xff\xda", b"\xff\xff\xff\xda")
        same(filled, decode_image(data))

    def test_no_scan(self) -> None:
        with pytest.raises(ImageError, match="no image data"):
            decode_image(b"\xff\xd8\xff\xd9")


ORIENTED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
class TestOrientation:
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
    def test_eight_bits(self, kind: str, orientation: int) -> None:
        exif = Pillow.Exif()
        exif[274] = orientation
        options: dict[str, Any] = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
        if kind == "JPEG":
            options |= {"quality": 100, "subsampling": 0}
        data = pillow(RGB, kind, **options)
        expected = ORIENTED[orientation](RGB)
        oracle = np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))))
        got = decode_image(data)
        assert got.shape == expected.shape
        tolerance = 4 if kind == "JPEG" else 0
        assert np.abs(got.astype(int) - expected).max() <= tolerance
        assert np.abs(got.astype(int) - oracle).max() <= tolerance

    def test_sixteen_bit_tiff(self, orientation: int) -> None:
        expected = ORIENTED[orientation]((RGB16 >> 8).astype(np.uint8))
        tag = [(274, "H", 1, orientation, True)]
        same(as_tiff(RGB16, photometric="rgb", extratags=tag), expected)
        same(as_tiff(RGB16[..., 0], photometric="minisblack", extratags=tag), grey3(expected[..., 0]))


PHOTO: Pixels = np.clip(
    np.add.outer(np.arange(48) * 2, np.arange(64) * 2)[..., None]
    + np.random.default_rng(1).normal(0, 9, (48, 64, 3)),
    0,
    255,
).astype(np.uint8)
FILES = {
    "png": pillow(PHOTO, "PNG"),
    "png interlaced 16": opencv_png(PHOTO.astype(np.uint16) << 8),
    "bmp": pillow(PHOTO, "BMP"),
    "bmp palette": pillow(Pillow.fromarray(PHOTO).quantize(16), "BMP"),
    "tiff": pillow(PHOTO, "TIFF"),
    "tiff lzw": pillow(PHOTO, "TIFF", compression="tiff_lzw"),
    "tiff deflate 16": as_tiff(PHOTO.astype(np.uint16) << 8, photometric="rgb", compression="zlib"),
    "bigtiff": as_tiff(PHOTO, photometric="rgb", bigtiff=True, rowsperstrip=5),
    "tiff tiles": as_tiff(PHOTO, photometric="rgb", tile=(32, 32)),
    "tiff jpeg": pillow(PHOTO, "TIFF", compression="jpeg"),
    "webp": pillow(PHOTO, "WEBP", quality=80),
    "webp lossless": pillow(PHOTO, "WEBP"),
    "webp alpha": pillow(np.dstack([PHOTO, PHOTO[..., :1]]), "WEBP", quality=80),
    "jpeg": pillow(PHOTO, "JPEG"),
    "jpeg progressive": pillow(PHOTO, "JPEG", progressive=True),
    "jpeg grey": pillow(PHOTO[..., 0], "JPEG"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_never_an_image(name: str) -> None:
    data = FILES[name]
    whole = decode_image(data)
    cuts = {*range(64), *range(0, len(data), max(1, len(data) // 250)), *range(len(data) - 64, len(data))}
    for cut in sorted(c for c in cuts if 0 <= c < len(data)):
        try:
            got = decode_image(data[:cut])
        except ImageError:
            continue
        # Only what lies behind the image's end may be missing.
        np.testing.assert_array_equal(got, whole, err_msg=f"cut at {cut} of {len(data)}")


@pytest.mark.parametrize("name", ["png", "webp", "bmp", "jpeg"])
def test_a_cut_at_any_byte_is_an_error(name: str) -> None:
    data = FILES[name]
    for cut in range(0, len(data), 3):
        with pytest.raises(ImageError):
            decode_image(data[:cut])


def test_a_png_whose_tail_became_zeros() -> None:
    """What a power cut leaves on some file systems: the right length, without the content."""
    for name in ("png", "jpeg"):
        data = FILES[name]
        half = len(data) // 2
        with pytest.raises(ImageError):
            decode_image(data[:half] + b"\0" * (len(data) - half))


def test_a_png_with_too_little_data_in_valid_chunks() -> None:
    stream = zlib.compress(b"\0" * 20)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    with pytest.raises(ImageError):
        decode_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", stream) + chunk(b"IEND", b""))


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_animations(kind: str) -> None:
    with pytest.raises(ImageError, match="several pictures"):
        decode_image(pillow(RGB, kind, save_all=True, append_images=[Pillow.fromarray(255 - RGB)]))


@pytest.mark.parametrize(
    "data",
    [b"hello, this is a text file\n" * 20, b"BM hello", b"\xff\xd8", b"RIFF1234WEBP", b"II*\0", b"\x89PNG"],
)
def test_not_an_image(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"notes\.png: "):
        read_image(path)


def test_formats_that_are_not_supported_are_named() -> None:
    """OpenCV reads GIF too, but nothing here checks that such a file is whole."""
    with pytest.raises(ImageError, match="PNG, JPEG, BMP, TIFF and WebP are supported"):
        decode_image(pillow(Pillow.fromarray(RGB), "GIF"))


def test_empty_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: the file is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_the_content_decides_the_format(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(pillow(RGB, "PNG"))
    np.testing.assert_array_equal(read_image(path), RGB)


def test_listing(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.tif", "d.txt", ".hidden.png", "e.webp"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "lost.bmp").symlink_to(tmp_path / "nowhere.bmp")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpeg", "b.PNG", "c.tif", "e.webp", "lost.bmp"]
    assert not is_image_path(Path("x.gif"))
    with pytest.raises(ImageError, match="not a readable folder"):
        list_images(tmp_path / "none")


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(FILES)), seed=st.integers(0, 2**32 - 1))
@example(name="bigtiff", seed=522)  # an offset beyond 2**63
def test_damaged_bytes_give_an_image_or_an_image_error(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(FILES[name])
    for _ in range(int(rng.integers(1, 6))):
        data[int(rng.integers(0, min(len(data), 400)))] = int(rng.integers(0, 256))
    try:
        image = decode_image(bytes(data))
    except ImageError:
        return
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
