"""Looking at a TIFF file's directory before it is decoded.

TIFF can hold nearly anything. What OpenCV reads right is let through; the rest (several pages, floats,
signed numbers, CMYK, …) is an error. Source: TIFF revision 6.0, and the BigTIFF layout of libtiff.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from edge_ad_runtime.containers import cut_off, several, unpack
from edge_ad_runtime.errors import ImageError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_SUBFILE, _BITS, _PHOTOMETRIC = 254, 258, 262
_OFFSETS, _SAMPLES, _BYTES, _PLANAR = (273, 324), 277, (279, 325), 284
_EXTRA, _FORMAT = 338, 339
_UNSIGNED, _UNDEFINED = 1, 4
# White-is-zero and black-is-zero grey, RGB, palette, YCbCr.
_COLOURS = frozenset({0, 1, 2, 3, 6})
_UNASSOCIATED_ALPHA, _ASSOCIATED_ALPHA = 2, 1
_REDUCED_OR_MASK = 0b101
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MAX_PAGES = 10_000


class _Field(NamedTuple):
    kind: int
    number: int
    offset: int  # of the value


class _Layout(NamedTuple):
    """Struct codes of the byte order, and sizes that differ between TIFF and BigTIFF."""

    order: str
    number: str
    pointer: str
    entry: int


class _Page(NamedTuple):
    fields: dict[int, _Field]
    next: int


class Tiff(NamedTuple):
    """What decoding needs to know: the file to decode, and its bits a channel (at most 8, or 16)."""

    data: bytes
    bits: int


def check_tiff(data: bytes) -> Tiff:
    """Check that the file is whole and of a variant that is decoded right.

    Raises:
        ImageError: it is cut off, holds several pages, or is of an unsupported variant.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    layout = _Layout(order, "Q", "Q", 20) if big else _Layout(order, "H", "I", 12)
    (first,) = unpack(order + layout.pointer, data, 8 if big else 4)
    page = _read_page(data, first, layout)
    _check_single(data, page, layout)
    _check_whole(data, page, layout)
    return _check_variant(data, page, layout)


def _read_page(data: bytes, position: int, layout: _Layout) -> _Page:
    (entries,) = unpack(layout.order + layout.number, data, position)
    position += struct.calcsize(layout.number)
    end = position + entries * layout.entry
    if end > len(data):
        raise cut_off(f"{len(data)} of at least {end} bytes")
    fields = {}
    for entry in range(position, end, layout.entry):
        tag, kind, count = unpack(layout.order + "HH" + layout.pointer, data, entry)
        value = entry + 4 + struct.calcsize(layout.pointer)
        size = _SIZES.get(kind, 1) * count
        if size > struct.calcsize(layout.pointer):
            (value,) = unpack(layout.order + layout.pointer, data, value)
        if value + size > len(data):
            raise cut_off(f"{len(data)} of at least {value + size} bytes")
        fields[tag] = _Field(kind, count, value)
    return _Page(fields, unpack(layout.order + layout.pointer, data, end)[0])


def _check_single(data: bytes, page: _Page, layout: _Layout) -> None:
    """Pages after the first may only be smaller copies or masks of it, as their subfile type says."""
    for _ in range(_MAX_PAGES):
        if page.next == 0:
            return
        page = _read_page(data, page.next, layout)
        if not _value(data, page, _SUBFILE, layout, 0) & _REDUCED_OR_MASK:
            break
    raise several("a TIFF with several pages")


def _check_whole(data: bytes, page: _Page, layout: _Layout) -> None:
    for offsets_tag, bytes_tag in zip(_OFFSETS, _BYTES, strict=True):
        if offsets_tag in page.fields and bytes_tag in page.fields:
            offsets = _values(data, page.fields[offsets_tag], layout)
            sizes = _values(data, page.fields[bytes_tag], layout)
            end = max((o + n for o, n in zip(offsets, sizes, strict=False)), default=0)
            if end > len(data):
                raise cut_off(f"{len(data)} of at least {end} bytes")
            return
    raise ImageError("the TIFF names no image data; remove it or save it again")


def _check_variant(data: bytes, page: _Page, layout: _Layout) -> Tiff:
    samples = _value(data, page, _SAMPLES, layout, 1)
    all_bits = set(_values(data, page.fields[_BITS], layout)) if _BITS in page.fields else {1}
    formats = set(_values(data, page.fields[_FORMAT], layout)) if _FORMAT in page.fields else {_UNSIGNED}
    colour = _value(data, page, _PHOTOMETRIC, layout, -1)
    bits = max(all_bits, default=0)
    problem = None
    if not formats <= {_UNSIGNED, _UNDEFINED}:
        problem = "a TIFF of floating-point or signed numbers"
    elif len(all_bits) != 1 or bits not in (1, 2, 4, 8, 16):
        problem = f"a TIFF of {'/'.join(map(str, sorted(all_bits)))} bits a channel"
    elif colour not in _COLOURS:
        problem = f"a TIFF of the colour type {colour} (5 is CMYK, 8 is CIELAB)"
    elif bits == 16 and (
        # OpenCV reads these wrongly: planes as pixels, white as black, two channels as eight bits.
        _value(data, page, _PLANAR, layout, 1) != 1 or colour not in (1, 2) or samples not in (1, 3, 4)
    ):
        problem = "a 16-bit TIFF that is planar, white-is-zero, or neither grey, RGB nor RGBA"
    elif samples > 4:
        problem = f"a TIFF of {samples} channels"
    if problem:
        raise ImageError(f"{problem} is not supported; save it as 8- or 16-bit PNG, grey or RGB")
    return Tiff(_keep_colours(data, page, layout), bits)


def _keep_colours(data: bytes, page: _Page, layout: _Layout) -> bytes:
    """libtiff multiplies the colours by an unassociated alpha; called associated, they stay as stored."""
    extra = page.fields.get(_EXTRA)
    if extra is None or _values(data, extra, layout)[:1] != (_UNASSOCIATED_ALPHA,):
        return data
    changed = bytearray(data)
    struct.pack_into(layout.order + _INTEGERS[extra.kind], changed, extra.offset, _ASSOCIATED_ALPHA)
    return bytes(changed)


def _values(data: bytes, field: _Field, layout: _Layout) -> tuple[int, ...]:
    code = _INTEGERS.get(field.kind)
    if code is None:
        raise ImageError("the TIFF is damaged (a number has the wrong type); copy it again or remove it")
    return unpack(f"{layout.order}{field.number}{code}", data, field.offset)


def _value(data: bytes, page: _Page, tag: int, layout: _Layout, default: int) -> int:
    field = page.fields.get(tag)
    values = () if field is None else _values(data, field, layout)
    return values[0] if values else default
