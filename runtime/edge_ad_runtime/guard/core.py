"""The guard: it alone knows of every part and owns every output.

A part is the guard's from its trigger on. It asks the scorer for a verdict and, when the part's time has come, rejects it
unless the verdict is there and says ``pass``. It does not matter why there is none. One loop reads triggers, encoder and
scorer without ever waiting for one of them; each output has a thread of its own (:mod:`edge_ad_runtime.actuation`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

import msgspec

from edge_ad_runtime.actuation import close_actuators, open_actuators
from edge_ad_runtime.clock import Clock, MonotonicClock, wait_readable
from edge_ad_runtime.errors import EdgeAdError, OutputError
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.messages import (
    MAX_PACKET,
    PROTOCOL,
    Alive,
    Ask,
    Finish,
    FrameVerdict,
    FromGuard,
    Hello,
    Notice,
    PartSeen,
    PartVerdict,
    Ping,
    Pong,
    Refused,
    Report,
    SoftTrigger,
    ToGuard,
    Welcome,
    sendable,
)
from edge_ad_runtime.outputs.base import OutputConfig
from edge_ad_runtime.tracking.belt import EncodedBelt, TimedBelt
from edge_ad_runtime.tracking.free import FreeRun
from edge_ad_runtime.tracking.tracker import Action, Eject, HoldFrom, HoldUntil, Settled, Tracker
from edge_ad_runtime.triggers.base import (
    Count,
    Edge,
    Event,
    EventSource,
    Running,
    SourceConfig,
    TriggerError,
)

_log = logging.getLogger(__name__)

# Records kept for a scorer that is away.
BACKLOG = 10_000
# Parts that the scorer is still to be told of while it does not read; more than that have long been decided on.
_UNTOLD = 1_000
# Packets read, and records sent, before the deadlines are looked at again.
_AT_ONCE = 32
# A connection that has not said hello by then is closed, and there may be so many of them.
GREETING_PATIENCE_NS = 3_000_000_000
_GUESTS = 8
# After SIGTERM, without a scorer, parts on their way are still rejected for this long; systemd waits for 90 s.
TERM_DRAIN_NS = 60_000_000_000
_LAST_WORD_S = 1.0
FIRST_RETRY_NS = 100_000_000
LAST_RETRY_NS = 5_000_000_000
_LONGEST_SLEEP_NS = 500_000_000
_SHORTEST_SLEEP_NS = 200_000
# At the end the outputs are looked at: whether they have given their last pulses.
_ENDING_SLEEP_NS = 5_000_000
# Relays wear out; a PLC looks for a beat every second or so.
_BEAT_NS = 100_000_000


@dataclass(frozen=True)
class GuardParts:
    """The devices, parsed but not opened."""

    outputs: Sequence[OutputConfig]
    heartbeat: OutputConfig | None = None
    trigger: SourceConfig[Edge] | None = None
    encoder: SourceConfig[Count] | None = None
    belt: SourceConfig[Running] | None = None


class _Watched(Generic[Event]):
    """A source that is opened again when it fails. That may take long, so a thread does it."""

    def __init__(
        self,
        config: SourceConfig[Event],
        selector: selectors.BaseSelector,
        wake: Callable[[], None],
        now_ns: int,
        patient: bool,
    ) -> None:
        self.name = config.name
        self._config: SourceConfig[Event] = config
        self._selector = selector
        self._wake = wake
        self._backoff = FIRST_RETRY_NS
        self._closed = False
        self._opener: threading.Thread | None = None
        self._found: EventSource[Event] | None = None
        self.retry_at: int | None = None
        self.worked_ns = now_ns
        self._failure: TriggerError | None = None
        self.trouble: str | None = None
        self.source: EventSource[Event] | None = None
        try:
            self.source = config.open()
            selector.register(self.source, selectors.EVENT_READ, self)
        except EdgeAdError as error:
            if not patient:
                raise
            self.trouble = str(error)
            self._failure = TriggerError(self.trouble, now_ns)

    def read(self, now_ns: int) -> tuple[list[Event], TriggerError | None]:
        """The events, and what went wrong if the source has just failed; its ``since_ns`` is set."""
        if self.source is None:
            failure, self._failure = self._failure, None
            if failure is not None:
                self.retry_at = now_ns + self._backoff
            return [], failure
        try:
            events = self.source.read()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the guard goes on
            since = error.since_ns if isinstance(error, TriggerError) else None
            self._leave()
            self.retry_at = now_ns + self._backoff
            self.trouble = str(error) or type(error).__name__
            return [], TriggerError(self.trouble, min(now_ns, self.worked_ns if since is None else since))
        self.worked_ns = now_ns
        return events, None

    def retry(self, now_ns: int) -> bool:
        """Open the source again where that is due; returns whether it works again."""
        if self._opener is not None:
            return not self._opener.is_alive() and self._opened(now_ns)
        if self.retry_at is not None and now_ns >= self.retry_at:
            self.retry_at = None
            self._opener = threading.Thread(target=self._open, name=f"opens {self.name}", daemon=True)
            self._opener.start()
        return False

    def _open(self) -> None:
        try:
            self._found = self._config.open()
        except Exception as error:  # noqa: BLE001 - as above
            _log.debug("%s: %s", self.name, error)
        if self._closed and self._found is not None:
            _close_source(self._found)
        self._wake()

    def _opened(self, now_ns: int) -> bool:
        self._opener, source, self._found = None, self._found, None
        if source is not None:
            try:
                self._selector.register(source, selectors.EVENT_READ, self)
            except Exception as error:  # noqa: BLE001 - as above
                _log.debug("%s: %s", self.name, error)
                _close_source(source)
            else:
                self.source, self.worked_ns, self._backoff = source, now_ns, FIRST_RETRY_NS
                self.trouble = None
                return True
        self._backoff = min(2 * self._backoff, LAST_RETRY_NS)
        self.retry_at = now_ns + self._backoff
        return False

    def _leave(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(source)
            _close_source(source)

    def close(self) -> None:
        self._closed = True
        self._leave()
        self.retry_at = None


def _close_source(source: EventSource[Event]) -> None:
    try:
        source.close()
    except Exception as error:  # noqa: BLE001 - it is given up anyway
        _log.debug("%s: %s", source.name, error)


class Guard:
    """See the module. Made with everything opened; :meth:`run` returns when it was told to finish."""

    def __init__(
        self,
        config: GuardConfig,
        parts: GuardParts,
        *,
        listener: socket.socket | None = None,
        scorer: socket.socket | None = None,
        clock: Clock | None = None,
        first_part: int = 1,
        patient: bool = False,
        realtime: bool = False,
    ) -> None:
        """Open the outputs, then the sources.

        Args:
            config: what to do; the URLs in it are not looked at.
            parts: the devices.
            listener: a listening local packet socket, at which scorers come and go.
            scorer: a connected one; the guard finishes when it is closed and there is no ``listener``.
            clock: the time.
            first_part: the first part's number. After a guard's death higher than all that a scorer was told, so that a
                verdict on an old part is not taken for one on a new part.
            patient: this guard takes the place of one that died: what cannot be opened is opened until it works, instead
                of raising; and what lies on the belt is rejected whatever ``reject_unknown`` says, unless missing
                verdicts pass: parts that the dead one was to reject may be among it.
            realtime: what to tell the scorer of this process's priority.

        Raises:
            OutputError, TriggerError, MissingExtra: a device cannot be opened; those opened are closed again.
        """
        self._config = config
        self._clock = clock or MonotonicClock()
        self._patient, self._realtime = patient, realtime
        self._selector = selectors.EpollSelector()
        # Wakes the loop: a byte of a signal or of a thread.
        self._bell, self.bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Taken again by a signal handler that interrupts its holder.
        self._ringing = threading.RLock()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._encoder_belt = EncodedBelt() if parts.encoder is not None else None
        # An encoder that was opened again counts from nought.
        self._encoder_base = self._encoder_count = 0.0
        belt = self._encoder_belt or TimedBelt()
        self._tracker = Tracker(config.track, belt, first_part) if config.track is not None else None
        self._free = FreeRun(config.travel_ns, config.pass_faults)
        configs = [*parts.outputs, *([parts.heartbeat] if parts.heartbeat is not None else [])]
        self._actuators = actuators = open_actuators(
            configs, clock, rejects_unwatched=config.track is None, patient=patient
        )
        self._outputs = actuators[: len(parts.outputs)]
        self._heartbeat = actuators[-1] if parts.heartbeat is not None else None
        if self._heartbeat is not None:
            self._heartbeat.release()
        self._troubles: set[str] = set()
        self._failures: dict[str, int] = {}
        self._sources: list[_Watched[Edge] | _Watched[Count] | _Watched[Running]] = []
        try:
            self._encoder = self._watch_source(parts.encoder)
            self._belt = self._watch_source(parts.belt)
            self._trigger = self._watch_source(parts.trigger)
        except BaseException:
            for source in self._sources:
                source.close()
            if failures := close_actuators(actuators):
                _log.error("%s", failures)
            self._close_loop()
            raise
        self._listener = listener
        if listener is not None:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
        self._decoder = msgspec.msgpack.Decoder(ToGuard)
        self._encode = msgspec.msgpack.Encoder().encode
        self._guests: dict[socket.socket, int] = {}
        self._scorer: socket.socket | None = None
        self._writing = False
        self._untold: deque[PartSeen] = deque(maxlen=_UNTOLD)
        self._backlog: deque[Settled] = deque(maxlen=BACKLOG)
        self._heard_ns = self._clock.now_ns()
        self._camera = False
        self._here = False
        self._noticing = False
        # Nothing is rejected for the time before the first scorer if what is on the belt then may pass.
        self._blind = not config.reject_unknown
        self._losses = 0
        self._beat_ns = 0
        self._beat = False
        self._finish_at: int | None = None
        self._terminated = False
        self._ended = self._takes_no_triggers = False
        self.unsafe: str | None = None
        if scorer is not None:
            self._admit(scorer)
        after_death = patient and config.track is not None and not config.track.pass_missing
        if self._tracker is not None and (config.reject_unknown or after_death):
            self._tracker.begin(self._clock.now_ns())

    def _watch_source(self, config: SourceConfig[Event] | None) -> _Watched[Event] | None:
        if config is None:
            return None
        watched = _Watched(config, self._selector, self._ring, self._clock.now_ns(), self._patient)
        self._sources.append(watched)
        return watched

    def run(self) -> None:
        """Guard the line until told to finish; then the outputs are safe and closed."""
        try:
            while not self._ended:
                self._turn()
        finally:
            self._shut()

    def finish(self, drain_ns: int) -> None:
        """As :class:`edge_ad_runtime.guard.messages.Finish`; also from a signal handler. The shortest time counts."""
        at = self._clock.now_ns() + drain_ns
        self._finish_at = at if self._finish_at is None else min(at, self._finish_at)
        self._ring()

    def terminate(self) -> None:
        """End, as asked by a signal: with a scorer, when that ends, for it was very likely asked as well; without one,
        when the parts on their way have been rejected. Asked a second time, at once."""
        if self._terminated:
            self.finish(0)
        self._terminated = True
        self._ring()

    def _ring(self) -> None:
        with self._ringing, contextlib.suppress(BlockingIOError):
            if self.bell >= 0:
                os.write(self.bell, b"\0")

    def _turn(self) -> None:
        # An epoll's own timeout is in milliseconds, rounded up twice on the way.
        wait_readable(self._selector.fileno(), self._sleep_ns())
        ready = {key.fileobj: mask for key, mask in self._selector.select(0)}
        now = self._clock.now_ns()
        if self._bell in ready:
            os.read(self._bell, 4096)
        # The encoder first: the position of a trigger is taken from it.
        self._read_encoder(now)
        self._read_belt(now)
        self._read_trigger(now)
        self._retry_sources(now)
        # The scorer before its successor: that it has hung up must be known first.
        if self._scorer is not None and ready.get(self._scorer, 0) & selectors.EVENT_READ:
            self._hear()
        if self._listener is not None and self._listener in ready:
            self._accept()
        for guest in [guest for guest in self._guests if guest in ready]:
            self._meet(guest)
        now = self._clock.now_ns()
        self._dismiss(now)
        if self._finish_at is not None and not self._takes_no_triggers:
            self._takes_no_triggers = True
            if self._tracker is not None:
                self._tracker.end_triggers(now)
        self._watch(now)
        self._watch_outputs()
        if self._tracker is not None:
            self._apply(self._tracker.advance(now))
        self._tell_rest()
        if self._terminated and self._finish_at is None and not self._here:
            self.finish(TERM_DRAIN_NS)
        if self._finish_at is not None and (now >= self._finish_at or not self._busy):
            self._ended = True

    @property
    def _busy(self) -> bool:
        tracked = self._tracker is not None and self._tracker.busy
        return tracked or any(output.busy for output in self._outputs)

    def _sleep_ns(self) -> int:
        now = self._clock.now_ns()
        times: list[int | None] = [source.retry_at for source in self._sources]
        times.extend(self._guests.values())
        if self._tracker is not None:
            times.append(self._tracker.next_time(now))
        if self._here:
            times.append(self._heard_ns + self._config.silence_ns)
        longest = _LONGEST_SLEEP_NS if self._finish_at is None else _ENDING_SLEEP_NS
        due = min((t for t in times if t is not None), default=now + longest)
        # Never shorter than a fraction of a millisecond: what is due is looked at again anyway, without a storm.
        return min(max(due - now, _SHORTEST_SLEEP_NS), longest)

    def _read_encoder(self, now_ns: int) -> None:
        if self._encoder is None or self._encoder_belt is None or self._tracker is None:
            return
        edges, failure = self._encoder.read(now_ns)
        for edge in edges:
            self._encoder_count = self._encoder_base + edge.count
            self._encoder_belt.edge(edge.t_ns, self._encoder_count)
        if failure is not None:
            self._notice(f"{failure}; everything is rejected until the encoder works again")
            self._apply(self._tracker.encoder_lost(now_ns))

    def _read_belt(self, now_ns: int) -> None:
        if self._belt is None or self._tracker is None or self._encoder_belt is not None:
            return
        changes, failure = self._belt.read(now_ns)
        for change in changes:
            if change.running:
                self._apply(self._tracker.belt_started(now_ns))
            else:
                self._apply(self._tracker.belt_stopped(now_ns))
        if failure is not None:
            self._notice(f"{failure}; the belt counts as stopped until its signal is back")
            self._apply(self._tracker.belt_stopped(now_ns))

    def _read_trigger(self, now_ns: int) -> None:
        if self._trigger is None or self._tracker is None:
            return
        edges, failure = self._trigger.read(now_ns)
        if self._finish_at is not None:
            return
        for edge in edges:
            self._on_trigger(min(edge.t_ns, now_ns), now_ns, edge.lost)
        if failure is not None:
            self._notice(f"{failure}; what passes the trigger is rejected unseen until it works again")
            self._tracker.blind(now_ns if failure.since_ns is None else failure.since_ns)

    def _on_trigger(self, t_ns: int, now_ns: int, lost: int = 0) -> None:
        if self._tracker is None:
            return
        part, actions = self._tracker.trigger(t_ns, now_ns, lost)
        self._apply(actions)
        if part is not None:
            self._untold.append(PartSeen(part, t_ns))
            self._tell_rest()

    def _retry_sources(self, now_ns: int) -> None:
        for source in self._sources:
            if source.retry(now_ns):
                self._notice(f"{source.name}: works again")
                if self._tracker is not None and source is self._trigger:
                    self._tracker.sighted(now_ns)
                elif self._tracker is not None and source is self._encoder:
                    self._encoder_base = self._encoder_count
                    self._tracker.encoder_found(now_ns)

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Settled):
                self._backlog.append(action)
                continue
            for output in self._outputs:
                if isinstance(action, Eject):
                    output.eject(action.at_ns, whole=action.whole)
                elif isinstance(action, HoldFrom):
                    output.hold_from(action.name, action.at_ns)
                elif isinstance(action, HoldUntil):
                    output.hold_until(action.name, action.at_ns)

    def _watch(self, now_ns: int) -> None:
        """Notice a scorer that is gone or silent, and one that is back; at the end it has nothing more to say."""
        if self._finish_at is not None:
            return
        silent = now_ns - self._heard_ns > self._config.silence_ns
        here = self._scorer is not None and not silent
        if here and not self._here and self._losses:
            self._notice("the scorer is back")
        if self._here and not here:
            self._losses += 1
            how = "is silent" if self._scorer is not None else "is gone"
            self._notice(f"the scorer {how}; no part passes without its verdict")
        changed, self._here = here is not self._here, here
        if changed and self._tracker is not None:
            self._tracker.scorer(here)
        self._watch_own_trigger(now_ns, here)
        watched = here and self._camera
        # Without a trigger, what is between the camera and the ejector now passed the camera unwatched.
        watched_from = now_ns + self._config.travel_ns if self._tracker is None else None
        for output in self._outputs:
            if watched:
                output.release(watched_from)
            else:
                output.hold_safe()

    def _watch_own_trigger(self, now_ns: int, here: bool) -> None:
        """Where the scorer triggers, nobody notices a part while it is away, or cannot see: all of them are rejected."""
        if self._tracker is None or self._config.trigger is not None or self._config.track is None:
            return
        if self._config.track.pass_missing:
            return
        noticing = here and self._noticing
        if noticing and self._blind:
            self._tracker.sighted(now_ns)
        elif not noticing and not self._blind:
            # A part that the camera sees is told of only when its frame is there.
            self._tracker.blind(now_ns, self._heard_ns - self._config.track.view_until_ns)
        self._blind = not noticing

    def _watch_outputs(self) -> None:
        """Say which output does not take its commands: what it should have rejected goes on."""
        for output in self._actuators:
            if output.dead:
                # Nothing here can mend it, but a new guard will.
                raise OutputError(f"{output.name}: its thread has ended")
            trouble = output.trouble
            failures, last = output.last_failure
            if trouble is not None and output.name not in self._troubles:
                self._troubles.add(output.name)
                self._notice(f"{trouble}; nothing is rejected there until it works again")
            elif trouble is None and output.name in self._troubles:
                self._troubles.remove(output.name)
                self._notice(f"{output.name}: works again")
            elif trouble is None and failures != self._failures.get(output.name, 0):
                self._notice(f"{last}; it worked at the next attempt")
            self._failures[output.name] = failures

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._guests) >= _GUESTS:
            self._part_with(next(iter(self._guests)))
        self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        """A connection is a guest until it has said hello, so that one that says nothing keeps no scorer away."""
        connection.setblocking(False)
        self._guests[connection] = self._clock.now_ns() + GREETING_PATIENCE_NS
        self._selector.register(connection, selectors.EVENT_READ)

    def _meet(self, guest: socket.socket) -> None:
        try:
            message = self._decoder.decode(guest.recv(MAX_PACKET))
        except BlockingIOError:
            return
        except (OSError, msgspec.DecodeError):
            self._part_with(guest)
            return
        if isinstance(message, Ask):
            self._send(guest, self.report())
            self._part_with(guest)
            return
        refusal = None
        if not isinstance(message, Hello):
            refusal = "a scorer says hello first"
        elif message.protocol != PROTOCOL:
            refusal = (
                f"it speaks protocol {PROTOCOL}, this program {message.protocol}; one of them is of another version: "
                f"end the guard with 'kill {os.getpid()}' and start again"
            )
        elif self._scorer is not None:
            refusal = f"the line is already run by process {_peer(self._scorer)}"
            if not self._here:
                refusal += ", which is silent; end that first"
        if refusal is not None:
            self._send(guest, Refused(refusal))
            self._part_with(guest)
            return
        del self._guests[guest]
        self._scorer = guest
        self._heard_ns = self._clock.now_ns()
        self._send(guest, Welcome(PROTOCOL, os.getpid(), self._config.digest, self._realtime))
        for source in self._sources:
            if source.trouble is not None:
                self._tell(Notice(sendable(f"{source.trouble} (is reopened until it works)")))
        # What is wrong with an output is said again.
        self._troubles.clear()

    def _part_with(self, guest: socket.socket) -> None:
        del self._guests[guest]
        self._selector.unregister(guest)
        guest.close()
        if self._listener is None:
            self.finish(0)

    def _dismiss(self, now_ns: int) -> None:
        for guest in [guest for guest, until in self._guests.items() if now_ns >= until]:
            self._part_with(guest)

    def _hear(self) -> None:
        # No more at once than that: a scorer that talks without a pause must not keep the guard from its deadlines.
        for _ in range(_AT_ONCE):
            if self._scorer is None:
                return
            try:
                packet = self._scorer.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._hang_up()
                return
            try:
                message = self._decoder.decode(packet)
            except msgspec.DecodeError as error:
                self._notice(f"the scorer says what this guard does not understand ({error})")
                self._hang_up()
                return
            self._heed(message)

    def _hang_up(self) -> None:
        connection, self._scorer = self._scorer, None
        self._camera = self._writing = False
        self._untold.clear()
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()
        if self._listener is None:
            self.finish(0)

    def _heed(self, message: ToGuard) -> None:
        now = self._clock.now_ns()
        if isinstance(message, Finish):
            self.finish(message.drain_ns)
        elif isinstance(message, Ask):
            self._tell(self.report())
        elif isinstance(message, Ping):
            self._tell(Pong())
        elif isinstance(message, SoftTrigger):
            if self._finish_at is None:
                self._on_trigger(min(message.t_ns, now), now)
        elif not isinstance(message, Hello):
            self._heard_ns = now
            self._on_sign(message, now)

    def _on_sign(self, message: Alive | PartVerdict | FrameVerdict, now_ns: int) -> None:
        if isinstance(message, Alive):
            self._camera = message.camera
            self._noticing = message.trigger
            self._toggle_heartbeat(now_ns)
        elif isinstance(message, PartVerdict):
            if self._tracker is not None:
                self._tracker.verdict(
                    message.part,
                    message.verdict,
                    message.fault,
                    message.detail,
                    t_trigger_ns=message.t_trigger_ns,
                )
        else:
            actions = self._free.frame(message.t_ns, message.verdict, message.fault, message.detail)
            # What became of a frame follows from its verdict; to tell the scorer would only take its time.
            self._apply(action for action in actions if not isinstance(action, Settled))

    def _toggle_heartbeat(self, now_ns: int) -> None:
        if self._heartbeat is None or now_ns - self._beat_ns < _BEAT_NS:
            return
        self._beat_ns, self._beat = now_ns, not self._beat
        if self._beat:
            self._heartbeat.hold_from("beat", now_ns)
        else:
            self._heartbeat.hold_until("beat", now_ns)

    def report(self, *, final: bool = False, unsafe: str | None = None) -> Report:
        """The counts as they are."""
        track = self._tracker.counts if self._tracker is not None else None
        counts = track or self._free.counts
        return Report(
            triggers=track.triggers if track is not None else 0,
            bounces=track.bounces if track is not None else 0,
            lost_triggers=track.lost_triggers if track is not None else 0,
            parts=counts.parts,
            passed=counts.passed,
            rejected=counts.rejected,
            faults=dict(counts.faults),
            late_verdicts=track.late_verdicts if track is not None else 0,
            in_flight=self._tracker.in_flight if self._tracker is not None else 0,
            most_in_flight=track.most_in_flight if track is not None else 0,
            scorer_losses=self._losses,
            outputs=tuple(output.stats for output in self._outputs),
            final=final,
            unsafe=unsafe,
            scorer=0 if self._scorer is None else _peer(self._scorer),
        )

    def _notice(self, text: str) -> None:
        _log.warning("%s", text)
        self._tell(Notice(sendable(text)))

    def _tell_rest(self) -> None:
        """Tell of new parts, then of settled ones, as far as the scorer reads; the rest when it has read."""
        if self._scorer is None:
            return
        while self._untold and self._tell(self._untold[0]):
            self._untold.popleft()
        if not self._untold:
            for _ in range(_AT_ONCE):
                if not self._backlog or not self._tell(self._backlog[0]):
                    break
                self._backlog.popleft()
        writing = bool(self._untold or self._backlog)
        if writing is not self._writing:
            self._writing = writing
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            self._selector.modify(self._scorer, events)

    def _tell(self, message: FromGuard) -> bool:
        """Send without waiting; a scorer that does not read is silent, and its parts are rejected."""
        return self._scorer is not None and self._send(self._scorer, message)

    def _send(self, connection: socket.socket, message: FromGuard) -> bool:
        try:
            connection.send(self._encode(message))
        except OSError:
            return False
        return True

    def _shut(self) -> None:
        # A scorer that comes now finds nobody and starts a new guard, which waits for the end of this one.
        if self._listener is not None:
            self._listener.close()
        for guest in self._guests:
            guest.close()
        self.unsafe = unsafe = close_actuators(self._actuators)
        if unsafe is not None:
            _log.error("%s", unsafe)
        for source in self._sources:
            source.close()
        if self._scorer is not None:
            with contextlib.suppress(OSError):
                self._scorer.settimeout(_LAST_WORD_S)
                # What is left unread would reach the other end as a reset, ahead of the last report.
                self._scorer.shutdown(socket.SHUT_RD)
                while self._scorer.recv(MAX_PACKET):
                    pass
            while self._backlog and self._tell(self._backlog[0]):
                self._backlog.popleft()
            self._tell(self.report(final=True, unsafe=None if unsafe is None else sendable(unsafe)))
            self._scorer.close()
        self._close_loop()

    def _close_loop(self) -> None:
        self._selector.close()
        os.close(self._bell)
        with self._ringing:
            bell, self.bell = self.bell, -1
            os.close(bell)


def _peer(connection: socket.socket) -> int:
    """The process at the other end (man 7 unix, SO_PEERCRED); 0 when it is in another PID namespace."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])
