"""A GPIO line through libgpiod 2: ``gpio://gpiochip0/17?active_low=1``.

The kernel holds a line's level only as long as the process keeps it requested. When the process ends, by
whatever cause, the line may return to its default: wire the actuator so that this is safe.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

from edge_ad_runtime.errors import EdgeAdError, InputError, MissingExtra, OutputError
from edge_ad_runtime.outputs.base import Timing
from edge_ad_runtime.outputs.query import TIMING_KEYS, Query

CONSUMER = "edge-ad"
_DEVICES = Path("/dev")


@dataclass(frozen=True)
class GpioConfig:
    """``chip`` is a device path, a name such as ``gpiochip0`` or a label such as ``pinctrl-rp1``; ``line`` a
    number on that chip or a line's name. Labels and names survive kernel updates, numbers may not."""

    chip: str
    line: int | str
    active_low: bool
    timing: Timing

    @property
    def name(self) -> str:
        return f"gpio://{self.chip}/{self.line}"

    @property
    def physical_key(self) -> str:
        return line_key(self.chip, self.line)

    def open(self) -> GpioLine:
        return GpioLine(self)


def parse_gpio(where: str, parts: SplitResult) -> GpioConfig:
    """The configuration that a ``gpio:`` URL describes.

    Raises:
        InputError: a key or a value is unknown or out of range.
    """
    query = Query(parts.query, where, ("active_low", *TIMING_KEYS))
    chip, _, line = f"{parts.netloc}{parts.path}".rpartition("/")
    chip, line = unquote(chip), unquote(line)
    if not chip or not line:
        raise InputError(f"{where}: give chip and line, as in gpio://gpiochip0/17")
    return GpioConfig(
        chip=chip,
        line=int(line) if line.isascii() and line.isdigit() else line,
        active_low=query.flag("active_low"),
        timing=query.timing(),
    )


def line_key(chip: str, line: int | str) -> str:
    """One text for one line, whatever its chip and it are called by; what is not here or not permitted stays as it is
    written."""
    try:
        path = find_chip(chip).resolve()
        if isinstance(line, str):
            with load_gpiod().Chip(str(path)) as opened:
                line = int(opened.line_offset_from_id(line))
    except (EdgeAdError, OSError, ValueError):
        path = Path(chip) if "/" in chip else _DEVICES / chip
    return f"gpio {path} {line}"


def load_gpiod(purpose: str = "gpio://…") -> Any:
    """The ``gpiod`` package.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("gpiod")
    except ImportError as error:
        raise MissingExtra("gpiod", "gpio", purpose) from error


def line_settings(config: GpioConfig) -> Any:
    """The ``gpiod.LineSettings`` of the request: an output that starts in its safe state, without a glitch."""
    gpiod = load_gpiod()
    line = gpiod.line
    return gpiod.LineSettings(
        direction=line.Direction.OUTPUT,
        active_low=config.active_low,
        output_value=line.Value.ACTIVE
        if config.timing.drives(config.timing.final_level)
        else line.Value.INACTIVE,
    )


def find_chip(chip: str, devices: Path = _DEVICES) -> Path:
    """The device of a chip given by path, name or label.

    Raises:
        OutputError: there is none, or several have this label.
    """
    gpiod = load_gpiod()
    if "/" in chip:
        return Path(chip)
    found: dict[str, Path] = {}
    labelled: list[Path] = []
    for path in sorted(devices.glob("gpiochip*")):
        if path.name == chip:
            return path
        try:
            with gpiod.Chip(str(path)) as opened:
                label = opened.get_info().label
        except OSError:  # not permitted, or just unplugged: it may still be another chip that is meant
            label = "?"
        found[f"{path.name} ({label})"] = path
        if label == chip:
            labelled.append(path)
    if len(labelled) == 1:
        return labelled[0]
    if labelled:
        names = ", ".join(p.name for p in labelled)
        raise OutputError(f"gpio chip '{chip}': {names} have this label; name one of them")
    here = ", ".join(found) or "no GPIO chip at all"
    raise OutputError(f"gpio chip '{chip}': not found; here are {here}")


class GpioLine:
    """One requested GPIO line. From the request on it is in its safe state."""

    def __init__(self, config: GpioConfig) -> None:
        gpiod = load_gpiod()
        self.name = config.name
        self._line = config.line
        self._values = (gpiod.line.Value.INACTIVE, gpiod.line.Value.ACTIVE)
        chip = find_chip(config.chip)
        try:
            self._request: Any = gpiod.request_lines(
                str(chip), consumer=CONSUMER, config={config.line: line_settings(config)}
            )
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self.name}: the line cannot be requested ({error}); check its number or name with "
                "'gpioinfo', that no other program holds it, and that the user may (group 'gpio')"
            ) from error

    def set(self, active: bool) -> None:
        if self._request is None:
            raise OutputError(f"{self.name}: is closed")
        try:
            self._request.set_value(self._line, self._values[active])
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.name}: cannot be set ({error})") from error

    def close(self) -> None:
        if self._request is not None:
            self._request.release()
            self._request = None
