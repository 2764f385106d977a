"""The errors of edge-ad.

Everything that edge-ad raises on purpose derives from :class:`EdgeAdError`, and also from the
built-in exception that a caller would expect, so both ``except EdgeAdError`` and ``except ValueError``
work. Each message says what is wrong and what to do about it.
"""

from __future__ import annotations


class EdgeAdError(Exception):
    """Root of all errors that edge-ad raises on purpose."""


class InputError(EdgeAdError, ValueError):
    """A value, a file's content or an option is not usable."""


class ImageError(InputError):
    """An image file is missing, broken, empty or not an image."""


class DataError(InputError):
    """A folder of images does not have what the job needs."""


class BundleError(InputError):
    """A bundle is damaged, incomplete or of an unknown format."""


class CalibrationError(InputError):
    """A calibration is missing, damaged, or does not belong to the bundle."""


class RunError(InputError):
    """A training run's folder is damaged, incomplete or of an unknown format."""


class CameraError(EdgeAdError, OSError):
    """A camera or another image source cannot be opened or read."""


class OutputError(EdgeAdError, OSError):
    """A reject output cannot be opened or driven."""


class EngineError(EdgeAdError, RuntimeError):
    """An engine or its device fails, whatever the bundle: no GPU, no memory, a driver that does not fit."""


class MissingExtra(EdgeAdError, ImportError):
    """An optional package is needed that the base installation leaves out.

    ``remedy`` says how to install it where pip and the extra do not do.
    """

    def __init__(self, package: str, extra: str, purpose: str, remedy: str | None = None) -> None:
        self.extra = extra
        remedy = remedy or f"pip install 'edge-ad[{extra}]'"
        super().__init__(f"{purpose} needs the package '{package}', which is not installed: {remedy}")
