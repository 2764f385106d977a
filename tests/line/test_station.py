"""The scoring station with a guard and a camera of the test's own: what is kept, what is told, and of whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge_ad_runtime.cameras.base import Frame
from edge_ad_runtime.cameras.triggered import PartCamera, PartFrame
from edge_ad_runtime.errors import ImageError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.guard.link import _Link
from edge_ad_runtime.guard.messages import Alive, FromGuard, PartSeen, PartVerdict, SoftTrigger, ToGuard
from edge_ad_runtime.inspector import Inspection
from edge_ad_runtime.line.judge import PartInspector, judge
from edge_ad_runtime.line.station import Recording, TriggeredStation
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tracking.picking import Miss
from edge_ad_runtime.tracking.tracker import Settled
from edge_ad_runtime.types import Image
from edge_ad_runtime.verdict import Fault, Verdict

BLACK = np.zeros((4, 4, 3), np.uint8)


class Calm:
    """Passes everything."""

    class calibration:
        threshold = 1.0

    score: object = 0.5

    def inspect(self, image: Image) -> Inspection:
        return Inspection(self.score, 1.0, Verdict.PASS, np.zeros((1, 1), np.float32), 0, 0)  # type: ignore[arg-type]


class Camera(PartCamera):
    """Keeps what was announced until the test gives each its frame."""

    name = "hand"
    alive = opened = True
    ended = False

    def __init__(self) -> None:
        self.announced: list[int] = []
        self.ready: list[PartFrame | Miss] = []

    live = True

    def open(self) -> PartCamera:
        return self

    def announce(self, part: int, t_trigger_ns: int) -> None:
        self.announced.append(part)

    def read(self, timeout_s: float) -> PartFrame | Miss | None:
        return self.ready.pop(0) if self.ready else None

    def give(self, index: int) -> None:
        self.ready.append(PartFrame(self.announced[index], Frame(BLACK, 0, 0, "hand")))


class Link:
    restarts = 0

    def __init__(self) -> None:
        self.told: list[ToGuard] = []
        self.came = threading.Event()

    def tell(self, message: ToGuard) -> bool:
        if isinstance(message, PartVerdict):
            self.told.append(message)
            self.came.set()
        return True


class Rig:
    def __init__(self) -> None:
        self.link, self.camera, self.stop = Link(), Camera(), StopRequest()
        self.events: list[PartEvent] = []
        inspector: PartInspector = Calm()  # type: ignore[assignment]
        recording = Recording(on_part=self.events.append)
        link: Any = self.link
        self.station = TriggeredStation(inspector, self.camera, link, recording, self.stop, None)
        self._thread = threading.Thread(target=self.station.run)
        self._thread.start()
        assert self.station.ready.wait(10)

    def hear(self, message: FromGuard) -> None:
        self.station.hear(message)

    def judge(self, index: int) -> None:
        self.link.came.clear()
        self.camera.give(index)
        assert self.link.came.wait(10)

    def close(self) -> None:
        self.stop.request()
        self._thread.join()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def settled(part: int, t_ns: int) -> Settled:
    return Settled(part=part, t_trigger_ns=t_ns, verdict=Verdict.PASS, ejected=False, due_ns=t_ns + 100)


def test_a_new_guard_may_count_from_one_again(rig: Rig) -> None:
    """The frame of the old part 1 comes when the new part 1 is known: the verdict names the old one's time."""
    rig.hear(PartSeen(1, 1000))
    rig.hear(PartSeen(1, 2000))
    rig.judge(0)
    rig.judge(1)
    assert [(v.part, v.t_trigger_ns) for v in rig.link.told if isinstance(v, PartVerdict)] == [
        (1, 1000),
        (1, 2000),
    ]
    rig.hear(settled(1, 2000))
    assert [(e.part, e.score) for e in rig.events] == [(1, 0.5)]
    assert not rig.station._judged, "the old guard will never tell of its part"


def test_what_comes_too_late_is_told_but_not_kept(rig: Rig) -> None:
    for i in range(200):
        rig.hear(PartSeen(i + 1, 1000 + i))
        rig.hear(settled(i + 1, 1000 + i))
        rig.camera.give(i)
    rig.hear(PartSeen(201, 5000))
    rig.judge(200)
    assert len(rig.link.told) == 1, "the engine's time is for parts that can still be judged"
    assert len(rig.station._judged) == 1 and len(rig.station._asked) == 0


@pytest.mark.parametrize("score", [None, "high", float("nan")])
def test_a_score_that_is_no_number_is_a_fault_of_the_part(score: object) -> None:
    inspector = Calm()
    inspector.score = score
    judgement = judge(inspector, BLACK)  # type: ignore[arg-type]
    assert judgement.verdict is Verdict.FAULT
    assert judgement.fault in (Fault.ENGINE, Fault.NOT_FINITE)


def test_an_image_that_cannot_be_used_is_a_bad_frame_and_no_fault_of_the_engine() -> None:
    class Picky(Calm):
        def inspect(self, image: Image) -> Inspection:
            raise ImageError("the region reaches beyond the image")

    assert judge(Picky(), BLACK).fault is Fault.FRAME  # type: ignore[arg-type]


def test_a_trigger_that_the_guard_does_not_take_is_sent_again_before_all_else() -> None:
    class Wire:
        def __init__(self) -> None:
            self.full = True
            self.sent: list[ToGuard] = []

        def send(self, message: ToGuard) -> None:
            if self.full:
                raise BlockingIOError
            self.sent.append(message)

    wire: Any = Wire()
    link = _Link(wire)
    assert not link.tell(SoftTrigger(1)) and not link.tell(Alive(0, True)) and not link.tell(SoftTrigger(2))
    wire.full = False
    assert link.tell(Alive(1, True)) and link.tell(SoftTrigger(3))
    assert wire.sent == [SoftTrigger(1), SoftTrigger(2), Alive(1, True), SoftTrigger(3)]
