"""The guard: it alone knows of every part and owns every output.

A part is the guard's from its trigger on. It asks the scorer for a verdict and, when the part's time has come, rejects it
unless the verdict is there and says ``pass``. It does not matter why there is none. One loop reads triggers, encoder and
scorer without ever waiting for one of them; each output has a thread of its own (:mod:`edge_ad_runtime.actuation`).
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

import msgspec

from edge_ad_runtime.actuation import Actuator, open_actuators
from edge_ad_runtime.clock import Clock, MonotonicClock
from edge_ad_runtime.errors import OutputError
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
    Refused,
    Report,
    SoftTrigger,
    ToGuard,
    Welcome,
)
from edge_ad_runtime.outputs.base import OutputConfig
from edge_ad_runtime.tracking.belt import EncodedBelt, TimedBelt
from edge_ad_runtime.tracking.free import FreeRun
from edge_ad_runtime.tracking.tracker import Action, Eject, HoldFrom, HoldUntil, Settled, Tracker
from edge_ad_runtime.triggers.base import Count, Edge, Event, EventSource, Running, SourceConfig

_log = logging.getLogger(__name__)

# Records kept for a scorer that is away.
BACKLOG = 10_000
FIRST_RETRY_NS = 100_000_000
LAST_RETRY_NS = 5_000_000_000
_LONGEST_SLEEP_S = 0.5
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
    """A source that is opened again when it fails."""

    def __init__(self, config: SourceConfig[Event], selector: selectors.BaseSelector) -> None:
        self.name = config.name
        self._config: SourceConfig[Event] = config
        self._selector = selector
        self._backoff = FIRST_RETRY_NS
        self.retry_at: int | None = None
        self.source: EventSource[Event] | None = config.open()
        selector.register(self.source, selectors.EVENT_READ, self)

    def read(self, now_ns: int) -> tuple[list[Event], str | None]:
        """The events, and what went wrong if the source has just failed."""
        if self.source is None:
            return [], None
        try:
            return self.source.read(), None
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the guard goes on
            self._drop()
            self.retry_at = now_ns + self._backoff
            return [], str(error) or type(error).__name__

    def retry(self, now_ns: int) -> bool:
        """Open the source again where that is due; returns whether it works again."""
        if self.retry_at is None or now_ns < self.retry_at:
            return False
        try:
            self.source = self._config.open()
        except Exception as error:  # noqa: BLE001 - as above
            _log.debug("%s: %s", self.name, error)
            self._backoff = min(2 * self._backoff, LAST_RETRY_NS)
            self.retry_at = now_ns + self._backoff
            return False
        self._selector.register(self.source, selectors.EVENT_READ, self)
        self._backoff, self.retry_at = FIRST_RETRY_NS, None
        return True

    def _drop(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            self._selector.unregister(source)
            source.close()

    def close(self) -> None:
        self._drop()
        self.retry_at = None


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
    ) -> None:
        """Open the outputs, then the sources.

        Args:
            config: what to do; the URLs in it are not looked at.
            parts: the devices.
            listener: a listening local packet socket, at which scorers come and go.
            scorer: a connected one; the guard finishes when it is closed and there is no ``listener``.
            clock: the time.

        Raises:
            OutputError, TriggerError, MissingExtra: a device cannot be opened; those opened are closed again.
        """
        self._config = config
        self._clock = clock or MonotonicClock()
        self._selector = selectors.DefaultSelector()
        self._encoder_belt = EncodedBelt() if parts.encoder is not None else None
        belt = self._encoder_belt or TimedBelt()
        self._tracker = Tracker(config.track, belt) if config.track is not None else None
        self._free = FreeRun(config.travel_ns, config.pass_faults)
        configs = [*parts.outputs, *([parts.heartbeat] if parts.heartbeat is not None else [])]
        actuators = open_actuators(configs, clock, rejects_unwatched=config.track is None)
        self._outputs = actuators[: len(parts.outputs)]
        self._heartbeat = actuators[-1] if parts.heartbeat is not None else None
        if self._heartbeat is not None:
            self._heartbeat.release()
        self._actuators = actuators
        self._sources: list[_Watched[Edge] | _Watched[Count] | _Watched[Running]] = []
        try:
            self._encoder = self._watch_source(parts.encoder)
            self._belt = self._watch_source(parts.belt)
            self._trigger = self._watch_source(parts.trigger)
        except BaseException:
            for source in self._sources:
                source.close()
            self._close_outputs()
            raise
        self._listener = listener
        if listener is not None:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
        self._decoder = msgspec.msgpack.Decoder(ToGuard)
        self._encode = msgspec.msgpack.Encoder().encode
        self._scorer: socket.socket | None = None
        self._greeted = False
        self._backlog: deque[Settled] = deque(maxlen=BACKLOG)
        self._heard_ns = self._clock.now_ns()
        self._camera = False
        self._here = False
        self._losses = 0
        self._beat_ns = 0
        self._beat = False
        self._finish_at: int | None = None
        self._ended = False
        self.unsafe: str | None = None
        if scorer is not None:
            self._adopt(scorer)
        if self._tracker is not None and config.reject_unknown:
            self._tracker.begin(self._clock.now_ns())

    def _watch_source(self, config: SourceConfig[Event] | None) -> _Watched[Event] | None:
        if config is None:
            return None
        watched = _Watched(config, self._selector)
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

    def _turn(self) -> None:
        ready = {key.fileobj for key, _ in self._selector.select(self._sleep_s())}
        now = self._clock.now_ns()
        # The encoder first: the position of a trigger is taken from it.
        self._read_encoder(now)
        self._read_belt(now)
        self._read_trigger(now)
        self._retry_sources(now)
        if self._listener in ready:
            self._accept()
        if self._scorer is not None and self._scorer in ready:
            self._hear()
        now = self._clock.now_ns()
        self._watch(now)
        if self._tracker is not None:
            self._apply(self._tracker.advance(now))
        if self._finish_at is not None and (now >= self._finish_at or not self._busy):
            self._ended = True

    @property
    def _busy(self) -> bool:
        tracked = self._tracker is not None and self._tracker.busy
        return tracked or any(output.busy for output in self._outputs)

    def _sleep_s(self) -> float:
        now = self._clock.now_ns()
        times: list[int | None] = [source.retry_at for source in self._sources]
        if self._tracker is not None:
            times.append(self._tracker.next_time(now))
        if self._here:
            times.append(self._heard_ns + self._config.silence_ns)
        if self._finish_at is not None:
            return 0.005
        due = min((t for t in times if t is not None), default=None)
        # Never shorter than a fraction of a millisecond: what is due is looked at again anyway, without a storm.
        return _LONGEST_SLEEP_S if due is None else min(max((due - now) / 1e9, 0.0002), _LONGEST_SLEEP_S)

    def _read_encoder(self, now_ns: int) -> None:
        if self._encoder is None or self._encoder_belt is None or self._tracker is None:
            return
        edges, failure = self._encoder.read(now_ns)
        for edge in edges:
            self._encoder_belt.edge(edge.t_ns, edge.count)
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
        if self._trigger is None or self._tracker is None or self._finish_at is not None:
            return
        edges, failure = self._trigger.read(now_ns)
        for edge in edges:
            self._on_trigger(min(edge.t_ns, now_ns), now_ns, edge.lost)
        if failure is not None:
            self._notice(f"{failure}; what passes the trigger is rejected unseen until it works again")
            self._tracker.blind(now_ns)

    def _on_trigger(self, t_ns: int, now_ns: int, lost: int = 0) -> None:
        if self._tracker is None:
            return
        part, actions = self._tracker.trigger(t_ns, now_ns, lost)
        self._apply(actions)
        if part is not None:
            self._tell(PartSeen(part, t_ns))

    def _retry_sources(self, now_ns: int) -> None:
        for source in self._sources:
            if source.retry(now_ns):
                self._notice(f"{source.name}: works again")
                if self._tracker is not None and source is self._trigger:
                    self._tracker.sighted(now_ns)
                elif self._tracker is not None and source is self._encoder:
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
        self._tell_backlog()

    def _watch(self, now_ns: int) -> None:
        """Notice a scorer that is gone or silent, and one that is back; at the end it has nothing more to say."""
        if self._finish_at is not None:
            return
        silent = now_ns - self._heard_ns > self._config.silence_ns
        here = self._greeted and not silent
        if here and not self._here and self._losses:
            self._notice("the scorer is back")
        if self._here and not here:
            self._losses += 1
            how = "is silent" if self._greeted else "is gone"
            self._notice(f"the scorer {how}; no part passes without its verdict")
        changed, self._here = here is not self._here, here
        if changed and self._tracker is not None:
            self._tracker.scorer(here)
        watched = here and self._camera
        for output in self._outputs:
            if watched:
                output.release()
            else:
                output.hold_safe()

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if self._scorer is not None:
            connection.setblocking(False)
            self._send(connection, Refused("the line is already run by another process"))
            connection.close()
            return
        self._adopt(connection)

    def _adopt(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._scorer = connection
        self._greeted = False
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self) -> None:
        while self._scorer is not None:
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
        self._greeted = self._camera = False
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()
        if self._listener is None:
            self.finish(0)

    def _heed(self, message: ToGuard) -> None:
        now = self._clock.now_ns()
        if isinstance(message, Hello):
            if message.protocol != PROTOCOL:
                self._tell(Refused(f"the guard speaks protocol {PROTOCOL}, the scorer {message.protocol}"))
                self._hang_up()
                return
            self._greeted, self._heard_ns = True, now
            self._tell(Welcome(PROTOCOL, os.getpid(), self._config.digest))
            self._tell_backlog()
        elif isinstance(message, Finish):
            self.finish(message.drain_ns)
        elif isinstance(message, Ask):
            self._tell(self.report())
        elif isinstance(message, SoftTrigger):
            if self._finish_at is None:
                self._on_trigger(min(message.t_ns, now), now)
        else:
            self._heard_ns = now
            self._on_sign(message, now)

    def _on_sign(self, message: Alive | PartVerdict | FrameVerdict, now_ns: int) -> None:
        if isinstance(message, Alive):
            self._camera = message.camera
            self._toggle_heartbeat(now_ns)
        elif isinstance(message, PartVerdict):
            if self._tracker is not None:
                self._tracker.verdict(message.part, message.verdict, message.fault, message.detail)
        else:
            self._apply(self._free.frame(message.t_ns, message.verdict, message.fault, message.detail))

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
        )

    def _notice(self, text: str) -> None:
        _log.warning("%s", text)
        self._tell(Notice(text))

    def _tell_backlog(self) -> None:
        while self._greeted and self._backlog and self._tell(self._backlog[0]):
            self._backlog.popleft()

    def _tell(self, message: FromGuard) -> bool:
        """Send without waiting; a scorer that does not read is silent, and its parts are rejected."""
        return self._scorer is not None and self._greeted and self._send(self._scorer, message)

    def _send(self, connection: socket.socket, message: FromGuard) -> bool:
        try:
            connection.send(self._encode(message))
        except OSError:
            return False
        return True

    def _close_outputs(self) -> str | None:
        """Bring all outputs into their safe states; what went wrong, if anything did."""
        failures = [failure for actuator in self._actuators if (failure := _close(actuator)) is not None]
        return "; ".join(failures) or None

    def _shut(self) -> None:
        self.unsafe = unsafe = self._close_outputs()
        if unsafe is not None:
            _log.error("%s", unsafe)
        for source in self._sources:
            source.close()
        self._tell(self.report(final=True, unsafe=unsafe))
        if self._scorer is not None:
            self._scorer.close()
        self._selector.close()


def _close(actuator: Actuator) -> str | None:
    try:
        actuator.close()
    except OutputError as error:
        return str(error)
    return None
