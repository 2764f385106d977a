"""What a V4L2 device says of itself, by ioctl: name, formats, sizes, rates and controls.

Structures and numbers: the kernel's ``include/uapi/linux/videodev2.h`` and ``v4l2-controls.h``. The device is opened a
second time for it, which V4L2 allows while another program or OpenCV streams; controls belong to the device.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_QUERYCAP, _CAPABILITY = 0x80685600, struct.Struct("=16s32s32s3I12x")
_ENUM_FMT, _FMTDESC = 0xC0405602, struct.Struct("=3I32sI16x")
_ENUM_FRAMESIZES, _FRMSIZE = 0xC02C564A, struct.Struct("=3I6I8x")
_ENUM_FRAMEINTERVALS, _FRMIVAL = 0xC034564B, struct.Struct("=5I6I8x")
_QUERYCTRL, _QUERY = 0xC0445624, struct.Struct("=2I32s4iI8x")
_G_CTRL, _S_CTRL, _CONTROL = 0xC008561B, 0xC008561C, struct.Struct("=Ii")

_CAPTURE, _CAPTURE_MPLANE, _DEVICE_CAPS = 0x1, 0x1000, 0x80000000
_DISCRETE = 1
_DISABLED = 0x1

AUTO_WHITE_BALANCE, WHITE_BALANCE_K = 0x0098090C, 0x0098091A
AUTO_GAIN, GAIN, ANALOGUE_GAIN = 0x00980912, 0x00980913, 0x009E0903
EXPOSURE_AUTO, EXPOSURE_ABSOLUTE = 0x009A0901, 0x009A0902
EXPOSURE_MANUAL = 1
"""Of ``V4L2_CID_EXPOSURE_AUTO``; 0 is automatic, 3 sets the time automatically and leaves the aperture."""
EXPOSURE_UNIT_US = 100
"""Of ``V4L2_CID_EXPOSURE_ABSOLUTE``."""

_MAX_ITEMS = 256


@dataclass(frozen=True)
class Size:
    """A frame size; ``rates`` in frames a second, highest first. A device with steps gives its smallest and largest."""

    width: int
    height: int
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Format:
    """A pixel format: four characters, and the driver's description."""

    fourcc: str
    description: str
    sizes: tuple[Size, ...]

    @property
    def bayer(self) -> bool:
        """Raw sensor data, which OpenCV does not turn into colours."""
        return "bayer" in self.description.lower() or self.fourcc[:2] in _BAYER or self.fourcc in _BAYER


# videodev2.h: RGGB8 .. 16 bits, packed and compressed variants share the first two characters.
_BAYER = frozenset(
    [
        "BA81",
        "GBRG",
        "GRBG",
        "RGGB",
        "BG10",
        "GB10",
        "BA10",
        "RG10",
        "pB",
        "pG",
        "pg",
        "pR",
        "aB",
        "aG",
        "ag",
        "aR",
        "bB",
        "bG",
        "bg",
        "bR",
        "BG12",
        "GB12",
        "BA12",
        "RG12",
        "BG14",
        "GB14",
        "GR14",
        "RG14",
        "BYR2",
        "GB16",
        "GR16",
        "RG16",
    ]
)


@dataclass(frozen=True)
class Control:
    """The range of a control."""

    name: str
    minimum: int
    maximum: int
    step: int


@dataclass(frozen=True)
class Capability:
    """``capture`` says whether images come from this node; metadata and output nodes have none."""

    driver: str
    card: str
    bus: str
    capture: bool


class V4l2Device:
    """An opened node; use :func:`opened`."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def capability(self) -> Capability:
        """Raises OSError: it is no V4L2 device."""
        driver, card, bus, _, capabilities, of_node = self._ask(
            _QUERYCAP, _CAPABILITY, b"", b"", b"", 0, 0, 0
        )
        mine = of_node if capabilities & _DEVICE_CAPS else capabilities
        capture = bool(mine & (_CAPTURE | _CAPTURE_MPLANE))
        return Capability(_text(driver), _text(card), _text(bus), capture)

    def formats(self) -> tuple[Format, ...]:
        """All pixel formats with their sizes and rates."""
        for kind in (1, 9):  # V4L2_BUF_TYPE_VIDEO_CAPTURE, _MPLANE
            found = [
                Format(_fourcc(code), _text(description), tuple(self._sizes(code)))
                for _, _, _, description, code in self._each(_ENUM_FMT, _FMTDESC, (kind, 0, b"", 0))
            ]
            if found:
                return tuple(found)
        return ()

    def _sizes(self, code: int) -> Iterator[Size]:
        for _, _, kind, *numbers in self._each(_ENUM_FRAMESIZES, _FRMSIZE, (code, *[0] * 7)):
            if kind == _DISCRETE:
                width, height = numbers[:2]
                yield Size(width, height, self._rates(code, width, height))
                continue
            low_w, high_w, _, low_h, high_h, _ = numbers
            yield Size(low_w, low_h, self._rates(code, low_w, low_h))
            yield Size(high_w, high_h, self._rates(code, high_w, high_h))
            return

    def _rates(self, code: int, width: int, height: int) -> tuple[float, ...]:
        rates: set[float] = set()
        rest = (code, width, height, *[0] * 7)
        for _, _, _, _, kind, *numbers in self._each(_ENUM_FRAMEINTERVALS, _FRMIVAL, rest):
            pairs = [numbers[:2]] if kind == _DISCRETE else [numbers[:2], numbers[2:4]]
            rates.update(float(Fraction(bottom, top)) for top, bottom in pairs if top and bottom)
            if kind != _DISCRETE:
                break
        return tuple(sorted(rates, reverse=True))

    def control(self, number: int) -> Control | None:
        """The range of a control; None where the device has none."""
        try:
            _, _, name, low, high, step, _, flags = self._ask(
                _QUERYCTRL, _QUERY, number, 0, b"", 0, 0, 0, 0, 0
            )
        except OSError:
            return None
        return None if flags & _DISABLED else Control(_text(name), low, high, step)

    def get(self, number: int) -> int | None:
        """The value of a control; None where the device has none or does not tell it."""
        if self.control(number) is None:
            return None
        try:
            value: int = self._ask(_G_CTRL, _CONTROL, number, 0)[1]
        except OSError:
            return None
        return value

    def set(self, number: int, value: int) -> None:
        """Set a control.

        Raises:
            OSError: the device does not take it.
        """
        self._ask(_S_CTRL, _CONTROL, number, value)

    def _each(self, request: int, layout: struct.Struct, after: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        for index in range(_MAX_ITEMS):
            try:
                item = self._ask(request, layout, index, *after)
            except OSError:  # EINVAL ends every list
                return
            yield item

    def _ask(self, request: int, layout: struct.Struct, *values: Any) -> tuple[Any, ...]:
        buffer = bytearray(layout.pack(*values))
        fcntl.ioctl(self._handle, request, buffer, True)
        return layout.unpack(buffer)


@contextmanager
def opened(path: str) -> Iterator[V4l2Device]:
    """Open a node for questions.

    Raises:
        OSError: it is missing, forbidden, or not a V4L2 device (ENOTTY).
    """
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield V4l2Device(handle)
    finally:
        os.close(handle)


def is_foreign(error: OSError) -> bool:
    """Whether the error says that this is no V4L2 device at all."""
    return error.errno in (errno.ENOTTY, errno.EINVAL)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode(errors="replace")


def _fourcc(code: int) -> str:
    return struct.pack("<I", code & 0x7FFFFFFF).decode("ascii", errors="replace").strip()
