"""Reject pulses at the right time: one worker thread for each output, deadlines by the monotonic clock.

What is to be rejected before the ejector from ``t`` on makes the output active at ``t + delay_ms - lead_ms`` and
inactive ``pulse_ms`` later; pulses that overlap or touch become one. The level is commanded once at the start (a
relay keeps its state when a program dies, so it is unknown then), at each change, and once more at the end.

A stop, an error of the program and the normal end of the interpreter leave the output in its safe state. A
process killed by SIGKILL, by a crash of native code or by a power cut can do nothing any more: a relay then
stays as it is and a GPIO line may return to its default. Where that is dangerous, the actuator needs a
hardware timeout or an interlock.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Sequence

import msgspec

from edge_ad_runtime.clock import Clock, MonotonicClock
from edge_ad_runtime.errors import EdgeAdError, OutputError
from edge_ad_runtime.outputs.base import Output, OutputConfig, PulsedOutput
from edge_ad_runtime.outputs.board_timer import BoardTimer
from edge_ad_runtime.tracking.pulses import Pulse, PulsePlan

_log = logging.getLogger(__name__)

FIRST_RETRY_NS = 50_000_000
LAST_RETRY_NS = 2_000_000_000
# A pulse that has lost more than this at its beginning is not given to a device's timer, which would end it too late.
_TIMED_LATE_NS = 5_000_000
# How long close() waits for a command that is under way; a serial port gives up after 0.5 s.
CLOSE_PATIENCE_S = 5.0


class ActuatorStats(msgspec.Struct, frozen=True):
    """Counts since the start.

    ``pulses`` were asked for; ``late`` of them began after their time, ``missed`` of them could not be given
    because they came too late or the output was out of order, ``cancelled`` of them had not begun at the end.
    ``errors`` are failed commands and openings.
    """

    name: str
    pulses: int
    late: int
    missed: int
    cancelled: int
    errors: int


class Actuator:
    """Drives one output from its own thread; no method waits for the device except :meth:`close`."""

    def __init__(
        self,
        config: OutputConfig,
        clock: Clock | None = None,
        *,
        rejects_unwatched: bool = False,
        patient: bool = False,
    ) -> None:
        """Open the output and hold it as nobody watches the line yet, until :meth:`release`.

        Args:
            config: the output.
            clock: the time.
            rejects_unwatched: whether an output whose ``safe`` is ``auto`` rejects while it is held.
            patient: an output that cannot be opened is opened until it works, instead of raising.

        Raises:
            OutputError, MissingExtra: see :meth:`OutputConfig.open`.
        """
        self.name = config.name
        self._config = config
        self._timing = config.timing
        safe = config.timing.safe
        self._held_level = safe == "on" or (safe == "auto" and rejects_unwatched)
        self._clock = clock or MonotonicClock()
        self._wakeup = threading.Condition()
        self._plan = PulsePlan(config.timing.min_off_ns)
        self._unserved = 0
        self._held = True
        self._held_until: int | None = None
        self._closing = False
        self._told_to_close = False
        self._finished = False
        self._failure: OutputError | None = None
        self._level: bool | None = None
        self._retry_at: int | None = None
        self._backoff = FIRST_RETRY_NS
        self._count = {"pulses": 0, "late": 0, "missed": 0, "cancelled": 0, "errors": 0}
        self._trouble: str | None = None
        self._last_failure: str | None = None
        self._timer = BoardTimer()
        self._output: Output | None = None
        try:
            self._output = config.open()
        except EdgeAdError as error:
            if not patient:
                raise
            self._fail(error)
        self._thread = threading.Thread(target=self._run, name=f"actuator {self.name}", daemon=True)
        with self._wakeup:
            self._clock.wake(self._wakeup)
        self._thread.start()
        # A daemon thread still runs while these are called, an ordinary one would have to end before.
        atexit.register(self._close_at_exit)

    def eject(self, at_ns: int, *, whole: bool = True) -> None:
        """Reject what is before the ejector from ``at_ns`` on.

        A pulse whose beginning has already passed is given at once and counted as late, in full length if ``whole``
        and otherwise until its end; a whole one without ``delay_ms`` and ``lead_ms`` is never late.
        """
        timing = self._timing
        with self._wakeup:
            if self._closing:
                return
            on, now = at_ns + timing.delay_ns - timing.lead_ns, self._clock.now_ns()
            late = on < now and (not whole or timing.delay_ns != timing.lead_ns)
            self._count["pulses"] += 1
            self._count["late"] += late
            # A pulse that is counted as late here is not counted once more when it begins.
            begin = max(on, now) if whole else on
            self._plan.add(Pulse(begin, begin + timing.pulse_ns, whole))
            self._clock.wake(self._wakeup)

    def hold_from(self, name: str, at_ns: int) -> None:
        """Reject everything that is before the ejector from ``at_ns`` on, until :meth:`hold_until` of this name."""
        with self._wakeup:
            self._plan.hold(name, at_ns + self._timing.delay_ns - self._timing.lead_ns)
            self._clock.wake(self._wakeup)

    def hold_until(self, name: str, at_ns: int) -> None:
        """End a hold when what is before the ejector at ``at_ns`` has passed."""
        with self._wakeup:
            self._plan.end_hold(name, at_ns + self._timing.delay_ns)
            self._clock.wake(self._wakeup)

    def hold_safe(self) -> None:
        """Keep the output as nobody watches the line (the camera or the scorer is away). Pulses are still given."""
        with self._wakeup:
            if not self._held:
                self._held, self._held_until = True, None
                self._clock.wake(self._wakeup)

    def release(self, from_ns: int | None = None) -> None:
        """End :meth:`hold_safe` when what comes before the ejector at ``from_ns`` is there (None: at once), for what is
        ahead of that passed unwatched. The output then rests inactive between pulses."""
        with self._wakeup:
            if self._held:
                self._held = False
                timing = self._timing
                self._held_until = None if from_ns is None else from_ns + timing.delay_ns - timing.lead_ns
                self._clock.wake(self._wakeup)

    @property
    def trouble(self) -> str | None:
        """What is wrong with the output; None while it takes its commands."""
        return self._trouble

    @property
    def last_failure(self) -> tuple[int, str | None]:
        """How many commands and openings have failed, and what was wrong the last time."""
        return self._count["errors"], self._last_failure

    @property
    def dead(self) -> bool:
        """Whether the worker ended without being told to: a fault of this program."""
        return self._finished and not self._told_to_close

    @property
    def busy(self) -> bool:
        """Whether pulses are waiting or under way."""
        with self._wakeup:
            return not self._finished and (self._plan.busy or self._unserved > 0)

    @property
    def stats(self) -> ActuatorStats:
        with self._wakeup:
            count = dict(self._count)
            count["late"] += self._plan.late
            count["missed"] += self._plan.missed
            return ActuatorStats(name=self.name, **count)

    def begin_close(self) -> None:
        """Begin what :meth:`close` does, without waiting: one stuck output must not keep the others from being safe."""
        with self._wakeup:
            self._told_to_close = True
            if not self._closing:
                self._closing = True
                self._clock.wake(self._wakeup)

    def close(self, patience_s: float = CLOSE_PATIENCE_S) -> None:
        """Drop the pulses that have not begun, bring the output into its safe state and release it.

        Raises:
            OutputError: the output could not be brought into its safe state within ``patience_s``.
        """
        self.begin_close()
        self._thread.join(max(patience_s, 0.0))
        if self._thread.is_alive():
            raise OutputError(
                f"{self.name}: is stuck in a command; its safe state ({self._timing.safe}) is not certain"
            )
        atexit.unregister(self._close_at_exit)
        if self._failure is not None:
            raise self._failure

    def _close_at_exit(self) -> None:
        try:
            self.close()
        except OutputError as error:
            _log.error("%s", error)

    def _run(self) -> None:
        try:
            with self._wakeup:
                while not self._closing:
                    self._step()
        finally:
            self._finish()
            self._clock.leave(self._wakeup)

    def _step(self) -> None:
        """Do what is due, or wait for it; the lock is held, but not while the device is commanded or closed."""
        now = self._clock.now_ns()
        waiting = self._plan.waiting + self._plan.missed
        planned = self._plan.level(now)
        if self._level is not True:
            self._unserved += waiting - self._plan.waiting - self._plan.missed
        if not planned:
            self._count["missed"] += self._unserved
            self._unserved = 0
        if self._held_until is not None and now >= self._held_until:
            self._held_until = None
        held = (self._held or self._held_until is not None) and self._held_level
        wanted = planned or held
        may_try = self._retry_at is None or now >= self._retry_at
        until = None if held or not planned else self._plan.until(now)
        tell = wanted and self._level is True and self._timer.must_tell(now, until)
        if (wanted != self._level or tell) and may_try:
            self._wakeup.release()
            try:
                failure = self._command(wanted, until if wanted else None)
                if failure is None:
                    self._succeed()
                else:
                    self._fail(failure)
                    # A serial port may take half a minute to close.
                    self._drop_output()
            finally:
                self._wakeup.acquire()
            self._note(wanted, failure is None)
            return
        times = (self._plan.next_edge(now), self._retry_at, self._held_until, self._timer.next_time(now))
        self._clock.wait(self._wakeup, min((t for t in times if t is not None), default=None))

    def _command(self, level: bool, until_ns: int | None = None) -> EdgeAdError | None:
        """Set the level, opening the output first where needed; what went wrong is returned. ``until_ns`` is when a
        rejection is to end, where that is known."""
        try:
            if self._output is None:
                self._output = self._config.open()
            now = self._clock.now_ns()
            if isinstance(self._output, PulsedOutput) and self._is_one_pulse(now, until_ns):
                try:
                    self._output.pulse()
                finally:
                    # Also when the answer was lost: it may have begun.
                    self._timer.started(now, self._clock.now_ns(), self._timing.pulse_ns)
            else:
                self._output.set(self._timing.drives(level))
                if level:
                    self._timer.told(now)
        except EdgeAdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the actuator goes on
            return OutputError(f"{self.name}: {type(error).__name__}: {error}")
        return None

    def _is_one_pulse(self, now_ns: int, until_ns: int | None) -> bool:
        """Whether a device's timer, which knows one length only, would end what is to begin now when it has to end."""
        if until_ns is None or self._timer.pending(now_ns):
            return False
        return 0 <= now_ns + self._timing.pulse_ns - until_ns <= _TIMED_LATE_NS

    def _succeed(self) -> None:
        if self._retry_at is not None:
            _log.warning("%s: works again", self.name)
        self._trouble, self._retry_at, self._backoff = None, None, FIRST_RETRY_NS

    def _fail(self, failure: EdgeAdError) -> None:
        self._count["errors"] += 1
        self._trouble = self._last_failure = str(failure)
        if self._retry_at is None:
            _log.warning("%s (is reopened until it works)", failure)
            # The first attempt follows at once: a board that was plugged in again costs no pulse.
            self._retry_at = self._clock.now_ns()
        else:
            self._retry_at = self._clock.now_ns() + self._backoff
            self._backoff = min(2 * self._backoff, LAST_RETRY_NS)

    def _note(self, level: bool, done: bool) -> None:
        # After a failed command the state is unknown, so whatever is wanted is commanded anew.
        self._level = level if done else None
        if done and level:
            self._unserved = 0

    def _drop_output(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            try:
                output.close()
            except Exception as error:  # noqa: BLE001 - it is given up anyway
                _log.debug("%s: %s", self.name, error)

    def _finish(self) -> None:
        safe = self._timing.final_level
        failure = self._command(safe)
        if failure is not None:
            self._drop_output()
            failure = self._command(safe)
        self._drop_output()
        with self._wakeup:
            self._count["cancelled"] += self._plan.clear()
            self._count["missed"] += self._unserved
            self._unserved = 0
            self._closing = self._finished = True
            if failure is not None:
                self._count["errors"] += 1
                self._failure = OutputError(
                    f"{failure}: its safe state ({self._timing.safe}) could not be commanded; check it by hand"
                )


def open_actuators(
    configs: Sequence[OutputConfig],
    clock: Clock | None = None,
    *,
    rejects_unwatched: bool = False,
    patient: bool = False,
) -> list[Actuator]:
    """Open all outputs, or none of them; the arguments are those of :class:`Actuator`.

    Raises:
        OutputError, MissingExtra: an output cannot be opened; those opened before are closed again.
    """
    opened: list[Actuator] = []
    try:
        opened.extend(
            Actuator(config, clock, rejects_unwatched=rejects_unwatched, patient=patient)
            for config in configs
        )
    except BaseException:
        if failures := close_actuators(opened):
            _log.error("%s", failures)
        raise
    return opened


def close_actuators(actuators: Sequence[Actuator]) -> str | None:
    """Bring all outputs into their safe states at the same time, within five seconds.

    Returns:
        What went wrong, if anything did.
    """
    for actuator in actuators:
        actuator.begin_close()
    until = time.monotonic() + CLOSE_PATIENCE_S
    failures = (_failure_of_close(actuator, until - time.monotonic()) for actuator in actuators)
    return "; ".join(failure for failure in failures if failure is not None) or None


def _failure_of_close(actuator: Actuator, patience_s: float) -> str | None:
    try:
        actuator.close(patience_s)
    except OutputError as error:
        return str(error)
    return None
