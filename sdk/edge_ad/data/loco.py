"""MVTec LOCO's ``defects_config.json``.

A list with one entry for each defect type: ``defect_name``, ``pixel_value`` (of the type's masks),
``saturation_threshold`` and ``relative_saturation``.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from edge_ad.data.model import Saturation
from edge_ad_runtime.errors import DataError

CONFIG_FILE = "defects_config.json"


class _Entry(msgspec.Struct, frozen=True):
    defect_name: str
    pixel_value: int
    saturation_threshold: float
    relative_saturation: bool


def read_saturation(path: Path) -> dict[int, Saturation]:
    """The saturation of each pixel value.

    Raises:
        DataError: the file cannot be read, or is not of this form.
    """
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Entry])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not a configuration of MVTec LOCO ({error})") from error
    found: dict[int, Saturation] = {}
    for entry in entries:
        most = 1.0 if entry.relative_saturation else math.inf
        if not (1 <= entry.pixel_value <= 255 and 0 < entry.saturation_threshold <= most):
            raise DataError(
                f"{path}: '{entry.defect_name}' has the pixel value {entry.pixel_value} (1 to 255 are possible) "
                f"and the saturation threshold {entry.saturation_threshold} (above 0; at most 1 if relative)"
            )
        if entry.pixel_value in found:
            raise DataError(f"{path}: the pixel value {entry.pixel_value} stands there twice")
        found[entry.pixel_value] = Saturation(
            entry.defect_name, entry.saturation_threshold, entry.relative_saturation
        )
    return found
