"""``edge-ad cameras``: which cameras there are, and how one of them behaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import click
import cv2
import msgspec

from edge_ad_runtime.camera_state import CameraState, automatic
from edge_ad_runtime.cameras import parse_camera
from edge_ad_runtime.cameras.listing import FormatInfo, Listing, Probe, list_cameras, probe
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.stopping import stop_on_signals
from edge_ad_runtime.types import Image


@click.command("cameras")
@click.argument("source", required=False)
@click.option(
    "--snapshot", type=click.Path(path_type=Path, dir_okay=False), help="Write the last image there."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 600, min_open=True),
    default=2.0,
    show_default=True,
    help="Watch SOURCE for so long.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: str | None, snapshot: Path | None, seconds: float, as_json: bool) -> None:
    """List the cameras of this machine, or open SOURCE and show how it behaves.

    SOURCE is a camera as for 'edge-ad run', with its settings: '0?width=1280&height=720&exposure_us=2000'. A setting
    that the camera does not take is an error that names it.
    """
    if source is None:
        if snapshot is not None:
            raise click.UsageError("--snapshot needs a SOURCE")
        _show_listing(list_cameras(), as_json)
        return
    with stop_on_signals() as stop:
        found, image = probe(parse_camera(source, stop=stop), seconds)
    if snapshot is not None:
        write_atomically(snapshot, _encoded(image, snapshot))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    _show_probe(found)
    if snapshot is not None:
        click.echo(f"snapshot       {snapshot}")


def _encoded(image: Image, path: Path) -> bytes:
    try:
        good, data = cv2.imencode(path.suffix or ".", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        good = False
    if not good:
        raise InputError(f"{path}: the name must end in .png, .jpg, .bmp, .tif or .webp")
    return bytes(data.tobytes())


def _show_listing(listing: Listing, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(listing).decode())
        return
    for camera in listing.cameras:
        click.echo(f"{camera.source}  {camera.name}")
        if camera.note is not None:
            click.echo(f"  {camera.note}")
        for line in _format_lines(camera.formats):
            click.echo(f"  {line}")
    if not listing.cameras:
        click.echo("no camera was found; a network camera is not listed, give its address: rtsp://…")
    for note in listing.notes:
        click.echo(f"note: {note}", err=True)


def _format_lines(formats: Sequence[FormatInfo]) -> Iterator[str]:
    """Formats that have the same sizes and rates stand together."""
    for sizes, same in groupby(formats, key=lambda form: form.sizes):
        yield ", ".join(f"{form.pixel_format} ({form.description})" for form in same)
        for size, rates in sizes.items():
            yield f"  {size}: {', '.join(f'{r:g}' for r in rates)} fps"


def _show_probe(found: Probe) -> None:
    rows = {"source": found.source, "image": f"{found.width}x{found.height}"}
    if found.frames is not None:
        f = found.frames
        rows["rate"] = (
            f"{f.fps:g} fps over {f.frames} frames, jitter {f.jitter_ms:g} ms, longest gap {f.longest_gap_ms:g} ms, "
            f"{f.lost} lost"
        )
    if found.times is not None:
        delay = "" if found.frames is None else f", {found.frames.delay_ms:g} ms before the frame is here"
        rows["timestamps"] = f"{found.times}{delay}"
    if found.state is not None:
        rows |= _state_rows(found.state)
    for name, value in rows.items():
        click.echo(f"{name:<15}{value}")
    if found.state is not None and (on := automatic(found.state)):
        click.echo(
            f"note: {' and '.join(on)}; scores move with it. Lock it: ?lock=1, or give the values", err=True
        )


def _state_rows(state: CameraState) -> dict[str, str]:
    def mode(automatic: bool | None) -> str:
        return "cannot be told" if automatic is None else "automatic" if automatic else "locked"

    exposure = [mode(state.auto_exposure)]
    exposure += [] if state.exposure_us is None else [f"{state.exposure_us:g} µs"]
    exposure += [] if state.gain is None else [f"gain {state.gain:g}"]
    white = [mode(state.auto_white_balance)]
    white += [] if state.white_balance_k is None else [f"{state.white_balance_k} K"]
    white += [] if state.colour_gains is None else ["red {:g}, blue {:g}".format(*state.colour_gains)]
    rows = {} if state.camera is None else {"camera": state.camera}
    rows |= {} if state.pixel_format is None else {"pixel format": state.pixel_format}
    return rows | {"exposure": ", ".join(exposure), "white balance": ", ".join(white)}
