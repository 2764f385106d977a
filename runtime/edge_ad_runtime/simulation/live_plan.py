"""What the modelled belt and the scorer that looks at it have to agree on, and what the scorer tells of itself."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.line.config import LineConfig
from edge_ad_runtime.line.summary import LineSummary
from edge_ad_runtime.simulation.faults import Kind
from edge_ad_runtime.simulation.motion import Stretch
from edge_ad_runtime.simulation.scene import Scene
from edge_ad_runtime.simulation.view import Article

PLAN, START, LOG, STATE, ERRORS = "plan.json", "start", "scorer.jsonl", "state", "scorer.log"


class LivePlan(msgspec.Struct, frozen=True, kw_only=True):
    """``line`` with its devices replaced. Times are nanoseconds from the belt's start, which the file :data:`START` tells
    once it is known. ``away``: when the camera is away, from and until. ``images``: the folder of the articles' images;
    None with ``bundle`` None: then the camera shows plates, and the verdict is what stands on them. ``parent``: the process
    without which the scorer ends."""

    line: LineConfig
    scene: Scene
    articles: tuple[Article, ...]
    stretches: tuple[Stretch, ...]
    kinds: frozenset[Kind]
    away: tuple[tuple[int, int], ...]
    seed: int
    parent: int
    bundle: str | None = None
    calibration: Calibration | None = None
    images: str | None = None


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The scorer's guard guards, its camera works."""

    pid: int


class PartDone(msgspec.Struct, frozen=True, tag="part"):
    """The record of a part."""

    event: PartEvent


class Injected(msgspec.Struct, frozen=True, tag="injected"):
    """A fault that happened within the scorer."""

    kind: Kind


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Why it ends."""

    error: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """It has ended as asked, its guard with it."""

    summary: LineSummary


Said = Ready | PartDone | Injected | Failed | Ended


def read_plan(folder: Path) -> LivePlan:
    """The plan in the simulation's folder."""
    return msgspec.json.decode((folder / PLAN).read_bytes(), type=LivePlan)


class Teller:
    """Appends to the log; each line goes at once and whole, from any thread."""

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tell(self, said: Said) -> None:
        os.write(self._handle, msgspec.json.encode(said) + b"\n")


class Listener:
    """Reads the log as it grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._read = 0
        self._decode = msgspec.json.Decoder(Said).decode
        self.ready: list[int] = []
        self.events: list[PartEvent] = []
        self.injected: list[Kind] = []
        self.failed: str | None = None
        self.summary: LineSummary | None = None

    def listen(self) -> bool:
        """Take what was said since; returns whether it was anything."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            # A scorer that was killed within a line leaves half of it.
            with contextlib.suppress(msgspec.DecodeError):
                self._take(self._decode(line))
        return bool(whole)

    def _take(self, said: Said) -> None:
        match said:
            case Ready(pid):
                self.ready.append(pid)
            case PartDone(event):
                self.events.append(event)
            case Injected(kind):
                self.injected.append(kind)
            case Failed(error):
                self.failed = error
            case Ended(summary):
                self.summary = summary
