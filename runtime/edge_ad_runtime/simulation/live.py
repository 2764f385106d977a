"""A modelled belt in real time, under the true processes: a guard and a scorer whose devices alone are modelled."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import msgspec

from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import InputError, OutputError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.guard.directory import end_guard
from edge_ad_runtime.guard.process import LOCK
from edge_ad_runtime.images import read_image
from edge_ad_runtime.line.config import (
    MOTION,
    HeartbeatSection,
    LineConfig,
    OutputSection,
    RecordsSection,
    TriggerSection,
)
from edge_ad_runtime.outputs.base import Timing
from edge_ad_runtime.simulation.agenda import Agenda
from edge_ad_runtime.simulation.course import Seen, lay_out, photo_eye, plan_motion, whole_way
from edge_ad_runtime.simulation.faults import UNAVOIDABLE, Kind, possible, random_kinds
from edge_ad_runtime.simulation.live_feed import FeedPipe
from edge_ad_runtime.simulation.live_plan import ERRORS, PLAN, START, STATE, Listener, LivePlan
from edge_ad_runtime.simulation.live_report import LiveRun, report_of
from edge_ad_runtime.simulation.report import SimReport
from edge_ad_runtime.simulation.scene import BELT_SIGNAL_NS, Scene
from edge_ad_runtime.simulation.truth import Truth
from edge_ad_runtime.simulation.view import Article
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.triggers.mock import Fed

USUAL_RATE = 5.0
"""Parts a second where none is asked for."""

_S = 1_000_000_000
# A fault of some duration happens once in so long, or there would be nothing else in a short run.
_SPELL_EVERY_S = 15.0
# The first part is at the photo-eye so long after the belt's start.
_RUN_UP_S = 0.3
# The start is told to the camera so long before it.
_HEADS_UP_NS = 300_000_000
_TICK_NS = 2_000_000
_POLL_S = 0.02
_LOOK_S = 0.2
_READY_PATIENCE_S = 120.0
_QUIET_S = 0.3
_END_PATIENCE_S = 40.0
# A source that was away is tried again after 5 s at the latest.
_AWAY_NS = 6 * _S


@dataclass(frozen=True)
class Scorer:
    """What scores: a bundle with its calibration and the folder of the parts' images; without a bundle the labels."""

    bundle: Path | None = None
    calibration: Calibration | None = None
    images: Path | None = None


def paced(scene: Scene, rate: float | None) -> Scene:
    """Parts that come at ``rate`` a second, more or less; None: :data:`USUAL_RATE`, or what the line is made for if that
    is less.

    Raises:
        InputError: the line is not made for so many.
    """
    most = scene.speed / scene.closest
    if rate is not None and rate > most:
        raise InputError(f"--rate {rate:g}: the line is made for at most {most:.1f} parts a second")
    apart = scene.speed / min(rate or USUAL_RATE, most)
    # Distances are 0.8 to 1.4 of the usual one, 1.1 in the mean.
    return msgspec.structs.replace(scene, usual=apart / 1.1, crowds=False)


def modelled_line(line: LineConfig, folder: Path) -> LineConfig:
    """The line with modelled devices: its photo-eye, encoder and belt signal fed through pipes in the folder, its outputs
    logged there. It keeps no records and pictures of its own.

    Raises:
        InputError: parts are found by motion.
    """
    if line.trigger is None or line.travel is None:
        raise InputError(f"line {line.name}: only lines with [trigger] and [travel] can be simulated")
    if line.trigger.source == MOTION:
        raise InputError(
            f'line {line.name}: trigger.source = "{MOTION}" cannot be simulated in real time, for the modelled camera '
            "shows parts that do not move; leave out --realtime"
        )
    trigger, travel = line.trigger, line.travel
    travel = msgspec.structs.replace(
        travel,
        encoder=None if travel.encoder is None else _feed_url(folder, "encoder"),
        belt=None if travel.belt is None else _feed_url(folder, "belt"),
    )
    return LineConfig(
        name=line.name,
        camera=line.camera,
        region=line.region,
        trigger=TriggerSection(
            source=_feed_url(folder, "eye"),
            delay_ms=trigger.delay_ms,
            debounce_ms=trigger.debounce_ms,
            max_in_flight=trigger.max_in_flight,
        ),
        travel=travel,
        outputs=tuple(_logged(folder, i, output.timing) for i, output in enumerate(line.outputs)),
        heartbeat=None if line.heartbeat is None else HeartbeatSection(url="mock://heartbeat"),
        failsafe=line.failsafe,
        records=RecordsSection(),
        threshold=line.threshold,
        scorer=line.scorer,
    )


def _feed_url(folder: Path, name: str) -> str:
    return f"mock://{name}?feed={quote(os.fspath(folder / name))}"


def output_log(folder: Path, number: int) -> Path:
    """The log of the output ``number``, from 0."""
    return folder / f"output{number + 1}.jsonl"


def _logged(folder: Path, number: int, timing: Timing) -> OutputSection:
    return OutputSection(
        url=f"mock://output{number + 1}?log={quote(os.fspath(output_log(folder, number)))}",
        pulse_ms=timing.pulse_ms,
        delay_ms=timing.delay_ms,
        lead_ms=timing.lead_ms,
        min_off_ms=timing.min_off_ms,
        safe=timing.safe,
        energise=timing.energise,
    )


def live_kinds(kinds: frozenset[Kind] | None, line: LineConfig, rng: random.Random) -> frozenset[Kind]:
    """What goes wrong on this line; None draws.

    Raises:
        InputError: a fault was asked for by name that this line cannot have.
    """
    drawn = random_kinds(rng) if kinds is None else kinds
    able = possible(drawn, line.travel is not None and line.travel.encoder is not None)
    deaf = line.travel is not None and line.travel.encoder is None and line.travel.belt is None
    if deaf and Kind.STOP in able:
        if kinds is not None:
            raise InputError(
                "fault 'stop': this line has neither an encoder nor travel.belt, so it could not know that the belt "
                "stands; leave it out"
            )
        able -= {Kind.STOP}
    return able


def simulate_live(
    line: LineConfig,
    scene: Scene,
    truth: Truth,
    parts: int,
    *,
    seed: int,
    kinds: frozenset[Kind] | None,
    bad_share: float,
    stop: StopRequest,
    scorer: Scorer | None = None,
    ejector_lead_ms: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> SimReport:
    """Run so many parts in real time.

    Args:
        line: the line; its devices are replaced.
        scene: the physics.
        truth: draws the parts.
        parts: how many.
        seed: of the parts, the belt and the faults; times of real processes are not repeated by it.
        kinds: what goes wrong; None draws.
        bad_share: of the parts, 0 to 1.
        stop: ends it; the report is of the parts that have passed by then.
        scorer: what scores.
        ejector_lead_ms: how long the modelled ejector takes to act; None: what the line says.
        progress: is told how many more parts have come to the photo-eye.

    Raises:
        InputError: the line cannot be simulated so.
        OutputError: the scorer or the guard does not start, or ended by itself.
    """
    began = time.monotonic()
    report = SimReport(seed=seed, unavoidable=sorted(k.value for k in (kinds or frozenset()) & UNAVOIDABLE))
    with tempfile.TemporaryDirectory(prefix="edge-ad-") as text:
        run = _Run(
            Path(text), line, scene, truth, parts, seed, kinds, bad_share, stop, scorer or Scorer(), progress
        )
        try:
            if run.start():
                run.play()
            done = run.end(scene.timing.lead_ms if ejector_lead_ms is None else ejector_lead_ms)
        finally:
            run.close()
        if done is not None:
            report_of(done, report)
    report.wall_s = round(time.monotonic() - began, 3)
    return report


class _Run:
    def __init__(
        self,
        folder: Path,
        line: LineConfig,
        scene: Scene,
        truth: Truth,
        parts: int,
        seed: int,
        kinds: frozenset[Kind] | None,
        bad_share: float,
        stop: StopRequest,
        scorer: Scorer,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._folder, self._scene, self._stop, self._seed = folder, scene, stop, seed
        self._progress = progress
        self._line = modelled_line(line, folder)
        self._rng = rng = random.Random(f"{seed}/live")
        self._kinds = live_kinds(kinds, line, rng)
        self._articles, doubles = _laid_out(scene, self._kinds, truth, parts, bad_share, rng)
        self._injected: Counter[Kind] = Counter()
        if doubles:
            self._injected[Kind.DOUBLE] = doubles
        way = whole_way(scene, self._articles)
        most = max(round(way / scene.speed / _SPELL_EVERY_S), 1)
        self._motion, self._spells = plan_motion(scene, self._kinds, way, rng, most)
        self._end_ns = round(self._motion.time_at(way)) + 2 * scene.track.reach_ns + _S
        _refuse_small_images(line, scorer, self._articles)
        plan = LivePlan(
            line=self._line,
            scene=scene,
            articles=tuple(self._articles),
            stretches=self._motion.stretches,
            kinds=self._kinds,
            away=self._spans(Kind.CAMERA_LOSS),
            seed=seed,
            parent=os.getpid(),
            bundle=None if scorer.bundle is None else os.fspath(scorer.bundle.absolute()),
            calibration=scorer.calibration,
            images=None
            if scorer.bundle is None or scorer.images is None
            else os.fspath(scorer.images.absolute()),
        )
        write_atomically(folder / PLAN, msgspec.json.encode(plan))
        self._listener = Listener(folder)
        self._eye, self._encoder, self._belt = (FeedPipe(folder / n) for n in ("eye", "encoder", "belt"))
        self._encoded = scene.mm_per_count is not None
        self._zero_mm = 0.0
        self._counted = 0
        self._silent = False
        self._agenda = Agenda()
        self._done = False
        self._lost = 0
        self._edges: list[tuple[int, int | None]] = []
        self._late_ns = 0
        self._start_ns = 0
        self._ended_ns = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned = 0
        self._crashes = 0
        self._looked = 0.0
        self._come = 0

    def _spans(self, kind: Kind) -> tuple[tuple[int, int], ...]:
        return tuple((s.begin_ns, s.end_ns) for s in self._spells if s.kind is kind)

    # The scorer's process

    def _spawn(self) -> None:
        with (self._folder / ERRORS).open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_ad_runtime.simulation.live_scorer", os.fspath(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # A Ctrl-C is for the simulation, which ends it in order.
                start_new_session=True,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
        self._spawned += 1

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _look_after(self) -> None:
        """
        Raises:
            OutputError: the scorer has ended by itself.
        """
        if self._process is None or self._process.poll() is None:
            return
        self._listener.listen()
        why = self._listener.failed or self._last_error() or f"exit status {self._process.returncode}"
        raise OutputError(f"the scorer of the simulation ended: {why}")

    def _last_error(self) -> str:
        lines = (self._folder / ERRORS).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _wait_ready(self, seconds: float, *, heed_stop: bool) -> bool:
        """Whether the latest scorer runs within that time."""
        until = time.monotonic() + seconds
        pid = None if self._process is None else self._process.pid
        while pid not in self._listener.ready:
            self._listener.listen()
            self._look_after()
            if time.monotonic() > until or (heed_stop and self._stop.requested):
                return False
            time.sleep(_POLL_S)
        return True

    # The run

    def start(self) -> bool:
        """Start the scorer and its guard; returns whether the belt runs, or a stop was requested."""
        self._spawn()
        if not self._wait_ready(_READY_PATIENCE_S, heed_stop=True):
            if self._stop.requested:
                return False
            raise OutputError(f"the scorer of the simulation does not start within {_READY_PATIENCE_S:g} s")
        self._start_ns = time.monotonic_ns() + _HEADS_UP_NS
        write_atomically(self._folder / START, str(self._start_ns).encode("ascii"))
        return True

    def play(self) -> None:
        """Let the belt run until its last part has left, or a stop is requested."""
        self._schedule()
        self._agenda.play(self._wait)
        self._ended_ns = time.monotonic_ns() - self._start_ns

    def _wait(self, t_ns: int) -> int | None:
        while not self._done:
            now = time.monotonic_ns() - self._start_ns
            if self._stop.requested:
                return None
            if now >= t_ns:
                return now
            if time.monotonic() - self._looked > _LOOK_S:
                self._looked = time.monotonic()
                self._look_after()
            self._stop.wait(min((t_ns - now) / 1e9, _LOOK_S))
        return None

    def _schedule(self) -> None:
        at, rng = self._agenda.at, self._rng
        for spell in self._spells:
            begin, end = spell.begin_ns, spell.end_ns
            at(begin, partial(self._count, spell.kind))
            if spell.kind is Kind.STALL:
                at(begin, partial(self._send, signal.SIGSTOP))
                at(end, partial(self._send, signal.SIGCONT))
            elif spell.kind is Kind.CRASH:
                at(begin, self._crash)
                at(end, self._restart)
            elif spell.kind is Kind.TRIGGER_LOSS:
                at(begin, partial(self._plug, self._eye, False))
                at(end, partial(self._plug, self._eye, True))
            elif spell.kind is Kind.ENCODER_LOSS:
                at(begin, partial(self._plug, self._encoder, False))
                at(end, partial(self._plug, self._encoder, True))
            elif spell.kind is Kind.SILENT_ENCODER:
                at(begin, partial(self._silence, True))
                at(end, partial(self._silence, False))
            elif spell.kind is Kind.STOP and not self._encoded:
                at(begin + rng.random() * BELT_SIGNAL_NS, partial(self._signal_belt, False))
                at(end + rng.random() * BELT_SIGNAL_NS, partial(self._signal_belt, True))
        for seen in photo_eye(
            self._scene, self._kinds, self._articles, self._motion, self._spells, rng, self._foresee, _AWAY_NS
        ):
            at(seen.t_ns, partial(self._see, seen))
        if self._encoded:
            at(0, self._tick)
        at(self._end_ns, self._finish)

    def _foresee(self, kind: Kind) -> None:
        self._injected[kind] += 1

    def _count(self, kind: Kind, _now_ns: int) -> None:
        self._injected[kind] += 1

    def _send(self, number: signal.Signals, _now_ns: int) -> None:
        self._signal(number)

    def _crash(self, _now_ns: int) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._crashes += 1

    def _restart(self, _now_ns: int) -> None:
        self._spawn()

    def _plug(self, device: FeedPipe, here: bool, now_ns: int) -> None:
        if here:
            device.bring_back()
        else:
            self._tell_counts(now_ns)
            device.take_away()

    def _signal_belt(self, running: bool, now_ns: int) -> None:
        self._belt.write([Fed(t_ns=self._start_ns + now_ns, running=running)])

    def _finish(self, _now_ns: int) -> None:
        self._done = True

    def _see(self, seen: Seen, now_ns: int) -> None:
        self._late_ns = max(self._late_ns, now_ns - round(seen.t_ns))
        t = round(seen.t_ns)
        self._tell_progress(self._motion.at(t))
        if self._eye.away or (seen.what == "ghost" and self._motion.speed(t) <= 0):
            return
        if seen.what == "lost":
            self._lost += 1
            return
        self._tell_counts(t)
        if self._eye.write([Fed(t_ns=self._start_ns + t, lost=self._lost)]):
            self._lost = 0
            self._edges.append((t, seen.index))

    def _tell_progress(self, mm: float) -> None:
        come = bisect_right(self._articles, mm, key=lambda article: article.place)
        if self._progress is not None and come > self._come:
            self._progress(come - self._come)
        self._come = max(come, self._come)

    def _silence(self, silent: bool, now_ns: int) -> None:
        self._tell_counts(now_ns)
        self._silent = silent
        if not silent and self._scene.mm_per_count is not None:
            self._zero_mm = self._motion.at(now_ns) - self._counted * self._scene.mm_per_count

    def _tick(self, now_ns: int) -> None:
        self._tell_counts(now_ns)
        self._agenda.at(now_ns + _TICK_NS, self._tick)

    def _tell_counts(self, now_ns: int) -> None:
        """The encoder's edges up to now, each with its own time."""
        mm = self._scene.mm_per_count
        if mm is None or self._silent:
            return
        motion = self._motion
        reached = int((motion.at(now_ns) - self._zero_mm) / mm)
        edges = range(self._counted + 1, reached + 1)
        told = self._encoder.write(
            [Fed(t_ns=self._start_ns + round(motion.time_at(self._zero_mm + c * mm)), count=c) for c in edges]
        )
        if told:
            self._counted = max(reached, self._counted)
        else:
            # Nobody has it open; whoever opens it counts from there.
            self._zero_mm, self._counted = motion.at(now_ns), 0

    # The end

    def end(self, ejector_lead_ms: float) -> LiveRun | None:
        """End the scorer, and by it the guard; None where the belt never ran."""
        if self._process is None:
            self._spawn()
        self._signal(signal.SIGCONT)
        if not self._start_ns:
            return None
        stopped = not self._done
        # The records of a dead scorer's parts are told to the next one.
        self._wait_ready(_END_PATIENCE_S if stopped else _READY_PATIENCE_S, heed_stop=False)
        quiet_from = time.monotonic()
        while time.monotonic() - quiet_from < _QUIET_S:
            if self._listener.listen():
                quiet_from = time.monotonic()
            time.sleep(_POLL_S)
        self._look_after()
        self._signal(signal.SIGTERM)
        assert self._process is not None
        try:
            self._process.wait(_END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise OutputError(
                f"the scorer of the simulation does not end within {_END_PATIENCE_S:g} s"
            ) from None
        self._listener.listen()
        if self._listener.summary is None:
            raise OutputError(
                f"the scorer of the simulation failed: {self._listener.failed or self._last_error()}"
            )
        self._injected.update(self._listener.injected)
        return LiveRun(
            scene=self._scene,
            articles=self._articles,
            motion=self._motion,
            start_ns=self._start_ns,
            end_ns=self._ended_ns,
            stopped=stopped,
            edges=self._edges,
            dead=self._spans(Kind.DEAD_OUTPUT),
            output_log=output_log(self._folder, 0),
            events=self._listener.events,
            summary=self._listener.summary,
            injected=self._injected,
            crashes=self._crashes,
            belt_late_ns=self._late_ns,
            ejector_lead_ns=round(ejector_lead_ms * 1e6),
            seed=self._seed,
        )

    def close(self) -> None:
        """Leave no process behind, whatever happened."""
        if self._process is not None and self._process.poll() is None:
            # One that is just starting its guard has to end that, too.
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_PATIENCE_S)
            self._process.kill()
            self._process.wait()
        lines = self._folder / STATE / "lines" / self._line.name
        with contextlib.suppress(OutputError, OSError):
            end_guard(self._folder / STATE, self._line.name, 0.0)
        with contextlib.suppress(OSError, ValueError, IndexError):
            guard = int((lines / LOCK).read_text(encoding="ascii").split()[0])
            # Its folder stands in its command line; the number may be another's by now.
            if os.fsencode(lines) in Path(f"/proc/{guard}/cmdline").read_bytes():
                os.kill(guard, signal.SIGKILL)


def _laid_out(
    scene: Scene, kinds: frozenset[Kind], truth: Truth, count: int, bad_share: float, rng: random.Random
) -> tuple[list[Article], int]:
    """As :func:`edge_ad_runtime.simulation.course.lay_out`, but all before the photo-eye when the belt starts."""
    articles, doubles = lay_out(scene, kinds, truth, count, bad_share, rng)
    ahead = scene.speed * _RUN_UP_S - articles[0].place
    return [Article(a.place + ahead, a.length, a.looks) for a in articles], doubles


def _refuse_small_images(line: LineConfig, scorer: Scorer, articles: list[Article]) -> None:
    region, folder = line.region, scorer.images
    if region is None or scorer.bundle is None or folder is None:
        return
    image = read_image(folder / articles[0].looks.name)
    if image.shape[0] < region.y + region.height or image.shape[1] < region.x + region.width:
        raise InputError(
            f"{folder}: the images are {image.shape[1]}x{image.shape[0]}, too small for [region]; give the camera's "
            "whole pictures, or leave [region] out where they show nothing else"
        )
