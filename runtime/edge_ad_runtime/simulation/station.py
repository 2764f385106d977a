"""The scoring process and its camera, as far as their times go."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edge_ad_runtime.simulation.agenda import Agenda, Happening
from edge_ad_runtime.simulation.faults import SHARES, Kind
from edge_ad_runtime.simulation.motion import Motion
from edge_ad_runtime.simulation.scene import Scene
from edge_ad_runtime.simulation.view import Article, View
from edge_ad_runtime.tracking.picking import FramePicker, Miss
from edge_ad_runtime.verdict import Fault, Verdict

# A message between the processes, and the time before a dead scorer's socket is noticed.
MESSAGE_NS = 200_000
# Frames that a driver keeps while nobody reads.
_DRIVER_FRAMES = 4


@dataclass(frozen=True)
class Answer:
    """The scorer's word on a part, with the frame that it is from: the time of exposure, what was in view."""

    part: int
    verdict: Verdict
    fault: Fault | None = None
    detail: str | None = None
    exposed_ns: int | None = None
    shown: tuple[int, ...] = ()


class SimStation:
    """The camera's frames go through the true :class:`FramePicker`; parts are scored one after the other."""

    def __init__(
        self,
        scene: Scene,
        articles: Sequence[Article],
        motion: Motion,
        kinds: frozenset[Kind],
        agenda: Agenda,
        rng: random.Random,
        tell: Callable[[int, Answer], None],
        injected: Callable[[Kind], None],
    ) -> None:
        self._scene = scene
        self._articles = articles
        self._view = View(scene, articles, motion)
        self._kinds = kinds
        self._agenda = agenda
        self._rng = rng
        self._tell = tell
        self._injected = injected
        self._life = 0
        self._stalled_since: int | None = None
        self._postponed: list[Happening] = []
        self._held: deque[tuple[int, int]] = deque(maxlen=_DRIVER_FRAMES)
        self._picker = FramePicker(scene.pick)
        self._camera = True
        self._camera_epoch = 0
        self._frame_number = 0
        self._came = 0
        self._next: tuple[int, int] | None = None
        self._planned = False
        self._queue: deque[tuple[int, int]] = deque()
        self._scoring = False
        self.settled = 0
        """The latest part that was told to have left."""

    # The process

    @property
    def running(self) -> bool:
        return self._stalled_since is None

    def stall(self, now_ns: int) -> None:
        if self._stalled_since is None:
            self._stalled_since = now_ns

    def go_on(self, now_ns: int) -> None:
        if self._stalled_since is None:
            return
        self._stalled_since = None
        postponed, self._postponed = self._postponed, []
        for happening in postponed:
            happening(now_ns)
        while self._held:
            self._take(*self._held.popleft(), now_ns)

    def die(self) -> None:
        """All that it knows is lost."""
        self._life += 1
        self._stalled_since = None
        self._postponed.clear()
        self._held.clear()
        self._queue.clear()
        self._scoring = False
        self._picker = FramePicker(self._scene.pick)
        self._camera = False
        self._camera_epoch += 1

    def live(self, now_ns: int) -> None:
        self.set_camera(True, now_ns)

    def set_camera(self, here: bool, now_ns: int) -> None:
        """The camera comes or goes."""
        if here is self._camera:
            return
        self._camera = here
        self._camera_epoch += 1
        self._planned = False
        self._held.clear()
        if here:
            self._picker = FramePicker(self._scene.pick)
            self._next = None
        else:
            self._when_running(now_ns, self._give_up)

    def _give_up(self, now_ns: int) -> None:
        for miss in self._picker.flush(Fault.CAMERA, "the camera is away"):
            self._miss(miss, now_ns)

    def _when_running(self, now_ns: int, happening: Happening) -> None:
        if self._stalled_since is None:
            happening(now_ns)
        else:
            self._postponed.append(happening)

    def _later(self, t_ns: float, happening: Happening) -> None:
        """In the process: not after its death, and not while it is stopped."""
        self._agenda.at(t_ns, partial(self._if_alive, self._life, happening))

    def _if_alive(self, life: int, happening: Happening, now_ns: int) -> None:
        if life == self._life:
            self._when_running(now_ns, happening)

    # Parts and frames

    def hear(self, part: int, t_trigger_ns: int, now_ns: int) -> None:
        """The guard tells of a part."""
        self._when_running(now_ns, partial(self._announce, part, t_trigger_ns))

    def _announce(self, part: int, t_trigger_ns: int, now_ns: int) -> None:
        if not self._camera:
            self._miss(Miss(part, Fault.CAMERA, "the camera is away"), now_ns)
            return
        if not self._planned:
            self._catch_up(now_ns)
        for miss in self._picker.expire(now_ns):
            self._miss(miss, now_ns)
        miss_now = self._picker.announce(part, t_trigger_ns)
        if miss_now is not None:
            self._miss(miss_now, now_ns)
            return
        self._plan_frame(now_ns)
        self._later(t_trigger_ns + self._scene.pick.delay_ns + self._scene.pick.patience_ns + 1, self._expire)

    def _expire(self, now_ns: int) -> None:
        for miss in self._picker.expire(now_ns):
            self._miss(miss, now_ns)

    def _new_frame(self) -> tuple[int, int]:
        """Exposure and timestamp of the next frame; the picker must not rely on more than the longest latency."""
        scene, rng = self._scene, self._rng
        while True:
            number = self._frame_number
            self._frame_number += 1
            if Kind.DROPPED_FRAME in self._kinds and rng.random() < SHARES[Kind.DROPPED_FRAME]:
                self._injected(Kind.DROPPED_FRAME)
                continue
            exposed = number * scene.frame_ns + round(rng.random() * 0.05 * scene.frame_ns)
            came = exposed + round(scene.pick.latency_ns * rng.uniform(0.3, 1.0))
            # Frames come in the order of their exposures.
            self._came = max(came, self._came + 1)
            return exposed, self._came

    def _catch_up(self, now_ns: int) -> None:
        """The frames that came while no part waited; only the latest one matters."""
        first = (now_ns - self._scene.pick.latency_ns) // self._scene.frame_ns - 2
        self._frame_number = max(self._frame_number, first)
        if self._next is None:
            self._next = self._new_frame()
        seen = None
        while self._next[1] <= now_ns:
            seen = self._next
            self._next = self._new_frame()
        if seen is not None:
            self._picker.frame(seen[1])

    def _plan_frame(self, now_ns: int) -> None:
        if self._planned or not self._picker.wanted:
            return
        self._planned = True
        if self._next is None:
            self._next = self._new_frame()
        self._agenda.at(max(self._next[1], now_ns), partial(self._frame, self._camera_epoch))

    def _frame(self, epoch: int, now_ns: int) -> None:
        if epoch != self._camera_epoch or self._next is None:
            return
        frame, self._next = self._next, self._new_frame()
        if self._stalled_since is not None:
            # The driver goes on and keeps the newest frames, with its own timestamps.
            self._held.append(frame)
            self._agenda.at(max(self._next[1], now_ns), partial(self._frame, epoch))
            return
        self._planned = False
        self._take(*frame, now_ns)
        self._plan_frame(now_ns)

    def _take(self, exposed_ns: int, t_ns: int, now_ns: int) -> None:
        part, misses = self._picker.frame(t_ns)
        for miss in misses:
            self._miss(miss, now_ns)
        if part is None:
            return
        if Kind.BAD_FRAME in self._kinds and self._rng.random() < SHARES[Kind.BAD_FRAME]:
            self._injected(Kind.BAD_FRAME)
            self._miss(Miss(part, Fault.FRAME, "the frame is damaged"), now_ns)
        elif len(self._queue) >= self._scene.backlog:
            self._miss(Miss(part, Fault.OVERRUN, f"{len(self._queue)} frames waited to be scored"), now_ns)
        else:
            self._queue.append((part, exposed_ns))
            self._score(now_ns)

    def _score(self, now_ns: int) -> None:
        while self._queue and not self._scoring:
            part, exposed_ns = self._queue.popleft()
            if part <= self.settled:
                continue
            self._scoring = True
            shown = self._view.at(exposed_ns)
            took = self._took(shown)
            self._later(now_ns + took, partial(self._scored, part, exposed_ns, shown))

    def _took(self, shown: tuple[int, ...]) -> float:
        measured = next((ns for i in shown if (ns := self._articles[i].looks.latency_ns) is not None), None)
        usual = self._scene.scorer_ns if measured is None else measured
        took = usual * self._rng.lognormvariate(0.0, self._scene.scorer_sigma)
        if Kind.SLOW in self._kinds and self._rng.random() < SHARES[Kind.SLOW]:
            self._injected(Kind.SLOW)
            took *= 10
        return took

    def _scored(self, part: int, exposed_ns: int, shown: tuple[int, ...], now_ns: int) -> None:
        self._scoring = False
        if Kind.ENGINE in self._kinds and self._rng.random() < SHARES[Kind.ENGINE]:
            self._injected(Kind.ENGINE)
            answer = Answer(part, Verdict.FAULT, Fault.ENGINE, "the engine failed", exposed_ns, shown)
        else:
            # An empty belt passes: the worst that a model can say of it.
            rejected = any(self._articles[i].looks.rejected for i in shown)
            answer = Answer(part, Verdict.REJECT if rejected else Verdict.PASS, None, None, exposed_ns, shown)
        self._tell(now_ns, answer)
        self._score(now_ns)

    def _miss(self, miss: Miss, now_ns: int) -> None:
        self._tell(now_ns, Answer(miss.part, Verdict.FAULT, miss.fault, miss.detail))
