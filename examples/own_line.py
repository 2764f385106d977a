"""A line whose camera, trigger and ejector are Python objects: python examples/own_line.py BUNDLE FOLDER

The images of FOLDER pass the camera one after the other. Each is triggered by a call, judged, and rejected 200 ms later
where that is due.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from edge_ad_runtime.cameras import parse_camera
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.images import list_images
from edge_ad_runtime.inspector import open_inspector
from edge_ad_runtime.line.assembly import Devices, Line
from edge_ad_runtime.line.config import from_options
from edge_ad_runtime.outputs.base import Timing


class Ejector:
    """An output: anything with a name, a timing, and an ``open`` that gives something with ``set`` and ``close``."""

    name = "my ejector"
    timing = Timing(pulse_ms=30)

    def open(self) -> Ejector:
        return self

    def set(self, active: bool) -> None:
        print(f"{time.monotonic():.3f}  ejector {'on' if active else 'off'}")

    def close(self) -> None:
        pass


def tell(event: PartEvent) -> None:
    print(f"{time.monotonic():.3f}  part {event.part}: {event.verdict} {event.score}")


def main(bundle: Path, folder: Path) -> None:
    inspector = open_inspector(bundle)
    config = from_options(str(folder), trigger="software", travel_ms=200, min_gap_ms=50)
    devices = Devices(camera=parse_camera(str(folder)), outputs=[Ejector()])
    images = list_images(folder)
    line = Line(config, inspector, devices=devices, limit=len(images), on_part=tell)

    def trigger_all() -> None:
        line.wait_ready(10)
        for _ in images:
            time.sleep(0.1)
            line.trigger()

    threading.Thread(target=trigger_all, daemon=True).start()
    summary = line.run()
    print(
        f"{summary.parts} parts: {summary.passed} passed, {summary.rejected} rejected, {summary.faults} faults"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
