"""Whether the devices that a line names are there, and which ones they are. Nothing is opened."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge_ad_runtime.cameras import parse_camera
from edge_ad_runtime.errors import EdgeAdError, MissingExtra, OutputError
from edge_ad_runtime.line.config import LineConfig, output_key
from edge_ad_runtime.line.section import Problem
from edge_ad_runtime.outputs import parse_output, physical_key
from edge_ad_runtime.outputs.gpio import find_chip
from edge_ad_runtime.triggers import parse_belt, parse_encoder, parse_trigger, physical_keys

_DEV = Path("/dev")


def line_urls(line: LineConfig) -> dict[str, str]:
    """The URL of every device of the guard, under its key."""
    urls = {output_key(line, i, "url"): output.full_url for i, output in enumerate(line.outputs)}
    if line.heartbeat is not None:
        urls["heartbeat.url"] = line.heartbeat.url
    sources = {
        "trigger.source": None if line.trigger is None else line.trigger.url,
        "travel.encoder": None if line.travel is None else line.travel.encoder,
        "travel.belt": None if line.travel is None else line.travel.belt,
    }
    return urls | {key: url for key, url in sources.items() if url is not None}


def shared_wires(line: LineConfig) -> list[Problem]:
    """Two outputs on one relay or line, or an output and a trigger, an encoder or a belt signal."""
    wires: dict[str, tuple[str, ...]] = {}
    for key, url in line_urls(line).items():
        if key == "trigger.source":
            wires[key] = physical_keys(parse_trigger(url))
        elif key == "travel.encoder":
            wires[key] = physical_keys(parse_encoder(url))
        elif key == "travel.belt":
            wires[key] = physical_keys(parse_belt(url))
        elif (wire := physical_key(parse_output(url))) is not None:
            wires[key] = (wire,)
    return [
        Problem(second, f"is on the same line or port as {first}; every device needs one of its own")
        for (first, ones), (second, others) in combinations(wires.items(), 2)
        if any(_same_wire(a, b) for a in ones for b in others)
    ]


def _same_wire(first: str, second: str) -> bool:
    """A port that is read as a whole is the same as whatever is on it."""
    return first == second or first.startswith(f"{second} ") or second.startswith(f"{first} ")


def missing_devices(line: LineConfig) -> list[Problem]:
    """The devices, files and packages that the line names and this machine does not have."""
    found = ((key, _missing(url)) for key, url in line_urls(line).items())
    problems = [Problem(key, text) for key, text in found if text is not None]
    return [*problems, *_missing_camera(line), *_missing_sinks(line), *_scarce_disk(line)]


def camera_device(source: str) -> Path | None:
    """The device of a camera text, where it is one below /dev."""
    path = source.partition("?")[0]
    device = Path(f"/dev/video{int(path)}" if path.isascii() and path.isdigit() else path)
    return device if device.is_relative_to(_DEV) else None


def resolved(url: str) -> str | None:
    """The device behind a chip's name or label, or behind a link; None where the URL already says it."""
    parts = urlsplit(url)
    if parts.scheme == "gpio":
        try:
            chip = find_chip(_chip(url))
        except (MissingExtra, OutputError):
            return None
        return str(chip) if chip.name not in url else None
    device = _device(url)
    return None if device is None else link_target(device)


def link_target(device: Path) -> str | None:
    """Where a link such as those in /dev/v4l/by-id leads."""
    return str(device.resolve()) if device.is_symlink() else None


def _chip(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.netloc) or str(Path(unquote(parts.path)).parent)


def _device(url: str) -> Path | None:
    """The device of a URL's path. Behind it may stand what is meant on it, as in modbus-rtu:///dev/ttyUSB0/coil/0."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_relative_to(_DEV):
        return None
    return next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)


def _missing(url: str) -> str | None:
    """What the device of a URL lacks here."""
    parts = urlsplit(url)
    if parts.scheme in ("modbus-tcp", "modbus-rtu") and find_spec("pymodbus") is None:
        return str(MissingExtra("pymodbus", "modbus", f"{parts.scheme}://…"))
    if parts.scheme == "gpio":
        try:
            chip = find_chip(_chip(url))
        except MissingExtra as error:
            return str(error)
        except OutputError as error:
            return f"{error}; 'gpiodetect' lists the chips with their labels"
        return (
            None if chip.exists() else f"there is no {chip}; 'gpiodetect' lists the chips with their labels"
        )
    path = unquote(parts.path)
    if parts.netloc or not Path(path).is_relative_to(_DEV) or _device(url) is not None:
        return None
    return f"there is no {path}; check that it is plugged in ('ls -l /dev/serial/by-id' lists serial ports)"


def _missing_camera(line: LineConfig) -> Iterator[Problem]:
    source = line.camera.source
    try:
        parse_camera(source, settings=line.camera.settings)
    except EdgeAdError as error:
        yield Problem("camera.source", str(error))
        return
    device = camera_device(source)
    if device is not None and not device.exists():
        here = ", ".join(sorted(map(str, _DEV.glob("video*")))) or "no /dev/video* at all"
        yield Problem("camera.source", f"there is no {device}; here is {here}")


def _missing_sinks(line: LineConfig) -> Iterator[Problem]:
    for text in line.records.sinks:
        kind, _, rest = text.partition(":")
        if kind in ("mqtt", "mqtts") and find_spec("paho") is None:
            yield Problem("records.sinks", str(MissingExtra("paho-mqtt", "mqtt", f"{kind}://…")))
        elif kind == "jsonl" and rest != "-":
            folder = Path(rest).absolute().parent
            if not folder.is_dir():
                yield Problem("records.sinks", f"{kind}:{rest}: there is no folder {folder}; make it")


def _scarce_disk(line: LineConfig) -> Iterator[Problem]:
    if line.pictures is None:
        return
    folder = Path(line.pictures.folder).absolute()
    there = next((p for p in (folder, *folder.parents) if p.exists()), None)
    if there is None:
        return
    if not there.is_dir():
        yield Problem("pictures.folder", f"{there} is a file; give a folder")
        return
    free_mb = shutil.disk_usage(there).free / 1e6
    if free_mb < line.pictures.min_free_mb:
        yield Problem(
            "pictures.min_free_mb",
            f"only {free_mb:.0f} MB are free on the disk of {folder}, less than shall stay free: no picture is kept",
            "warning",
        )
