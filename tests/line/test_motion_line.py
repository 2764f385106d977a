"""A line without a photo-eye: parts found in the camera's image, from the film of a belt to the pulse."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.inspector import Inspection
from edge_ad_runtime.line.assembly import Devices, Line
from edge_ad_runtime.line.config import (
    CameraSection,
    LineConfig,
    MotionSection,
    TravelSection,
    TriggerSection,
)
from edge_ad_runtime.outputs import parse_output
from edge_ad_runtime.outputs.mock import MockConfig
from edge_ad_runtime.verdict import Verdict
from tests.line.belts import DATA, FPS, Belt, place, ways

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared images are not here")
EMPTY_FRAMES = 70
SPEED = 8


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two seconds of empty belt, then three parts, each alone in the middle of the view for a while."""
    belt = Belt(place([90, 90, 90], [330, 330, 330], first=320 + EMPTY_FRAMES * SPEED))
    frames = EMPTY_FRAMES + (3 * 420 + 240) // SPEED
    for i, view in enumerate(belt.views(ways([SPEED] * frames))):
        cv2.imwrite(str(tmp_path / f"{i:04}.png"), view)
    return tmp_path


class Alternating:
    """Passes the first part, rejects the second, passes the third, and remembers what it saw."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.seen: list[npt.NDArray[np.uint8]] = []

    def inspect(self, image: npt.NDArray[np.uint8]) -> Inspection:
        self.seen.append(image)
        bad = len(self.seen) == 2
        score = self.calibration.threshold * (2 if bad else 0.5)
        verdict = Verdict.REJECT if bad else Verdict.PASS
        return Inspection(score, self.calibration.threshold, verdict, np.zeros((1, 1), np.float32), 0, 0)


def test_each_part_is_seen_once_judged_and_only_the_bad_one_rejected(tiny_bundle: Path, film: Path) -> None:
    output = parse_output("mock://x?pulse_ms=50&safe=off")
    assert isinstance(output, MockConfig)
    config = LineConfig(
        camera=CameraSection(source=f"mock:{film}?fps={FPS}", fps=FPS, latency_ms=0.0),
        trigger=TriggerSection(source="motion", motion=MotionSection(direction="right", learn_s=1.0)),
        travel=TravelSection(mode="time", ms=600, min_gap_ms=100),
    )
    inspector = Alternating(open_bundle(tiny_bundle).calibration)
    events: list[PartEvent] = []
    line = Line(config, inspector, devices=Devices(outputs=[output]), on_part=events.append)
    summary = line.run()
    assert [e.verdict for e in events] == ["pass", "reject", "pass"], [e.fault for e in events]
    assert summary.triggers == 3
    for image in inspector.seen:
        # The part's leading edge has just crossed the middle of the view.
        columns = np.flatnonzero(np.abs(image[60].astype(int) - image[2].astype(int)).max(axis=1) > 60)
        assert len(columns) > 20
    pulses = [t for t, on in output.device.history if on]
    due = events[1].t_monotonic_ns + 600_000_000
    assert min(abs(t - due) for t in pulses) < 50_000_000
    # Before the empty belt was known, everything was rejected; after that only the second part.
    assert len([t for t in pulses if t > events[0].t_monotonic_ns]) == 1
