"""A line whose model has faults, as a process: ``python -m tests.line.faulty_inspector BUNDLE LINE STATE``.

A part whose image begins with a red pixel makes the engine raise; with a blue one, it hangs for :data:`HANG_S`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from edge_ad_runtime.inspector import Inspection, Inspector, open_inspector
from edge_ad_runtime.line.assembly import Line
from edge_ad_runtime.line.reading import read_line_file
from edge_ad_runtime.stopping import stop_on_signals
from edge_ad_runtime.types import Image

RED, BLUE = (255, 0, 0), (0, 0, 255)
HANG_S = 1.8


class FaultyInspector:
    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self.calibration = inspector.calibration

    def inspect(self, image: Image) -> Inspection:
        first = tuple(image[0, 0].tolist())
        if first == RED:
            raise RuntimeError("out of memory")
        if first == BLUE:
            time.sleep(HANG_S)
        return self._inspector.inspect(image)


def main() -> None:
    bundle, line, state = (Path(text) for text in sys.argv[1:])
    with stop_on_signals() as stop:
        inspector = FaultyInspector(open_inspector(bundle, threads=1))
        Line(read_line_file(line).config, inspector, state=state, stop=stop).run()


if __name__ == "__main__":
    main()
