"""The scorer's end: find or start the guard, talk to it, start it anew when it dies."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from edge_ad_runtime.errors import EdgeAdError, OutputError
from edge_ad_runtime.files import make_folder
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import Guard, GuardParts
from edge_ad_runtime.guard.messages import (
    MAX_PACKET,
    PROTOCOL,
    Finish,
    FrameVerdict,
    FromGuard,
    Hello,
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
from edge_ad_runtime.guard.process import LOG, SOCKET, Start, Started
from edge_ad_runtime.stopping import StopRequest

_log = logging.getLogger(__name__)

# Longer than a guard waits for the end of the one before.
START_PATIENCE_S = 20.0
ANSWER_PATIENCE_S = 5.0
# Longer than a guard takes to bring stuck outputs into their safe state.
END_PATIENCE_S = 15.0
# After a stop request, what is due is still given for this long.
STOP_DRAIN_S = 2.0
_END_POLL_S = 0.05
# A guard that has said nothing for a second is asked, and replaced when it has not answered this often.
PING_S = 1.0
PINGS = 3
FIRST_RENEWAL_S = 0.1
LAST_RENEWAL_S = 5.0
# Triggers kept while the guard cannot be told of them.
_UNSENT = 10_000

Hearer = Callable[[FromGuard], None]


class GuardLink(Protocol):
    """A connection to a guard."""

    def listen(self, hearer: Hearer) -> None:
        """Hand every message of the guard to ``hearer``, in a thread of the link's own; once."""
        ...

    def tell(self, message: ToGuard) -> bool:
        """Send; returns whether it went. A guard that is gone is started anew meanwhile. A trigger that does not go is
        sent again before the next message, so that no part is unknown for it."""
        ...

    restarts: int
    """How often the guard died and was started anew."""

    def abandon(self) -> None:
        """End the guard after an error of this program; what goes wrong is logged."""
        ...

    def leave(self) -> None:
        """Go, after an error that nobody expected, as if this program had been killed: a guard that is a process goes on
        rejecting until a scorer comes back, another one ends as in :meth:`abandon`."""
        ...

    def finish(
        self, drain_s: float, stop: StopRequest | None = None, stop_drain_s: float = STOP_DRAIN_S
    ) -> Report:
        """Let the guard give what is due within ``drain_s`` seconds, make the outputs safe and end; a stop request
        meanwhile leaves it ``stop_drain_s``.

        Raises:
            OutputError: the guard is gone, or an output could not be brought into its safe state.
        """
        ...


class _HungUp(OutputError):
    """The guard was just ending."""


class _Wire:
    """One packet socket with its encoder and decoder. Sending never waits: a guard that does not read is of no use."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(FromGuard).decode

    def send(self, message: ToGuard) -> None:
        """Raises OSError: it does not go."""
        self._socket.send(self._encode(message))

    def receive(self, seconds: float) -> FromGuard | None:
        """The next message; None when the guard has hung up.

        Raises:
            TimeoutError: none came.
            msgspec.DecodeError: one that is not understood.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                packet = self._socket.recv(MAX_PACKET)
            except BlockingIOError:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError("no answer") from None
                self._poll.poll(left * 1e3)
                continue
            except OSError:
                return None
            return self._decode(packet) if packet else None

    def greet(self) -> Welcome:
        """Say hello.

        Raises:
            OutputError: the guard is busy, of another version, or silent.
        """
        try:
            self.send(Hello(PROTOCOL, os.getpid()))
            answer = self.receive(ANSWER_PATIENCE_S)
        except (OSError, msgspec.DecodeError) as error:
            self.close()
            if isinstance(error, ConnectionError):
                raise _HungUp("the guard hung up") from error
            raise OutputError(
                f"the guard (process {self.peer}) does not answer ({error}); end it with 'kill -9 {self.peer}'"
            ) from error
        if isinstance(answer, Welcome):
            return answer
        self.close()
        if isinstance(answer, Refused):
            raise OutputError(f"the guard refuses: {answer.why}")
        raise _HungUp("the guard hung up")

    def hang_up(self) -> None:
        """End the connection, also for a thread that is reading from it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait_for_end(self, seconds: float) -> bool:
        """Whether the guard hangs up within that time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError, msgspec.DecodeError):
                if self.receive(left) is None:
                    return True
        return False

    def wait_for_report(self, seconds: float) -> Report | None:
        """The next report within that time; None when the guard hangs up or says nothing."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError, msgspec.DecodeError):
                message = self.receive(left)
                if message is None or isinstance(message, Report):
                    return message
        return None

    @property
    def peer(self) -> int:
        """The process at the other end (man 7 unix, SO_PEERCRED); 0 when it is not known."""
        try:
            credentials = self._socket.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
            )
        except OSError:
            return 0
        return int(struct.unpack("3i", credentials)[0])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # Wakes the thread that receives.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class _Link:
    """What both kinds of link share: a thread that listens, and the end."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self.restarts = 0
        # Held while a message is sent, and while the wire is exchanged.
        self._sending = threading.Lock()
        self._triggers: deque[SoftTrigger] = deque(maxlen=_UNSENT)
        self._drain_ns: int | None = None
        self._is_ending = threading.Event()
        self._finished = threading.Event()
        self._final: Report | None = None
        self._last_part = 0
        self._hearer: Hearer = _ignore
        self._thread = threading.Thread(target=self._listen, name="guard link", daemon=True)

    def listen(self, hearer: Hearer) -> None:
        self._hearer = hearer
        self._thread.start()

    def tell(self, message: ToGuard) -> bool:
        if isinstance(message, PartVerdict | FrameVerdict) and message.detail is not None:
            message = msgspec.structs.replace(message, detail=sendable(message.detail))
        with self._sending:
            try:
                if isinstance(message, SoftTrigger):
                    self._triggers.append(message)
                while self._triggers:
                    self._wire.send(self._triggers[0])
                    self._triggers.popleft()
                if not isinstance(message, SoftTrigger):
                    self._wire.send(message)
            except OSError:
                return False
        return True

    def _listen(self) -> None:
        pings = 0
        while True:
            try:
                message = self._wire.receive(PING_S)
            except TimeoutError:
                if pings == PINGS:
                    self._replace_hung()
                self.tell(Ping())
                pings += 1
                continue
            except msgspec.DecodeError as error:
                _log.error("the guard says what this program does not understand (%s)", error)
                continue
            pings = 0
            if message is None:
                if not self._renew():
                    self._finished.set()
                    return
                continue
            if isinstance(message, Pong):
                continue
            if isinstance(message, PartSeen):
                self._last_part = message.part
            if isinstance(message, Report) and message.final:
                self._final = message
            try:
                self._hearer(message)
            except Exception:  # noqa: BLE001 - a record that cannot be told must not make the link deaf
                _log.exception("a message of the guard could not be handled")

    def _renew(self) -> bool:
        """The guard has hung up; returns whether there is a new one."""
        return False

    def _replace_hung(self) -> None:
        """The guard lives but does nothing."""

    def abandon(self) -> None:
        """End the guard after an error of this program; what goes wrong is logged."""
        try:
            self.finish(STOP_DRAIN_S)
        except OutputError as error:
            _log.error("%s", error)

    def leave(self) -> None:
        self.abandon()

    def finish(
        self, drain_s: float, stop: StopRequest | None = None, stop_drain_s: float = STOP_DRAIN_S
    ) -> Report:
        if not self._thread.is_alive() and not self._finished.is_set():
            self.listen(_ignore)
        self._tell_finish(drain_s)
        until = time.monotonic() + drain_s
        while not self._finished.wait(_END_POLL_S) and time.monotonic() < until:
            if stop is not None and stop.requested:
                self._tell_finish(stop_drain_s)
                until = min(until, time.monotonic() + stop_drain_s)
                stop = None
        ended = self._finished.wait(END_PATIENCE_S)
        self._wire.close()
        if not ended:
            raise OutputError("the guard does not end; its outputs may not be in their safe states")
        if self._final is None:
            raise OutputError(
                "the guard died; its outputs may not be in their safe states, check them by hand"
            )
        if self._final.unsafe is not None:
            raise OutputError(self._final.unsafe)
        return self._final

    def _tell_finish(self, drain_s: float) -> None:
        with self._sending:
            # A guard that is being started is told when it is there.
            self._drain_ns = round(drain_s * 1e9)
            self._is_ending.set()
            with contextlib.suppress(OSError):
                self._wire.send(Finish(self._drain_ns))


def connect(folder: Path) -> _Wire | None:
    """A connection to the guard of the line with this folder; None when there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(os.fspath(folder / SOCKET))
    except OSError:
        connection.close()
        return None
    return _Wire(connection)


def _ignore(_message: FromGuard) -> None:
    return


class ThreadGuard(_Link):
    """A guard in a thread of this process, for outputs and triggers that are Python objects.

    It shares this process's fate and its interpreter: pulses come later under load, and nothing is safe once the
    process is killed. Where the outputs have URLs, use :class:`ProcessGuard`.
    """

    def __init__(self, config: GuardConfig, parts: GuardParts) -> None:
        """Open the devices.

        Raises:
            OutputError, TriggerError, MissingExtra: see :class:`edge_ad_runtime.guard.core.Guard`.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            guard = Guard(config, parts, scorer=theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._runner = threading.Thread(target=guard.run, name="guard", daemon=True)
        self._runner.start()
        wire = _Wire(ours)
        wire.greet()
        super().__init__(wire)


class ProcessGuard(_Link):
    """A guard in a process of its own. One that already runs this line with the same configuration is taken over with
    all its parts; one with another configuration is told to finish first.

    A guard that dies, or hangs for four seconds, is replaced. The new one rejects everything that is between the trigger
    and the ejector then, unless the policy passes what nobody judged; what passes the ejector in between passes unjudged, if the output's
    own state lets it.
    """

    def __init__(self, config: GuardConfig, state: Path, cpus: Sequence[int] | None = None) -> None:
        """Find or start the guard.

        Args:
            config: what it does.
            state: the device's writable folder; the line gets a folder of its own in it.
            cpus: the cores on which a guard that is started runs; None are those of the calling thread.

        Raises:
            OutputError: it cannot be started, or another scorer runs the line.
        """
        self._config = config
        self._cpus = None if cpus is None else tuple(cpus)
        self._folder = (state / "lines" / config.line).absolute()
        make_folder(self._folder)
        self.realtime = False
        self.taken_over = False
        self._left = False
        super().__init__(self._find_or_start(Start(config, os.fspath(self._folder), cpus=self._cpus)))

    def leave(self) -> None:
        with self._sending:
            self._left = True
            self._wire.hang_up()
        self._finished.wait(END_PATIENCE_S)
        self._wire.close()
        _log.error(
            "this program fails; the guard goes on and rejects every part without a verdict: start the line again, or end "
            "the guard with 'edge-ad line stop %s'",
            self._config.line,
        )

    def _find_or_start(self, start: Start) -> _Wire:
        wire = self._connect()
        if wire is None:
            return self._begin(self._spawn(start))
        try:
            welcome = wire.greet()
        except _HungUp:
            return self._begin(self._spawn(start))
        if welcome.config == self._config.digest:
            self.taken_over, self.realtime = True, welcome.realtime
            return wire
        # The new guard is ready to take the outputs when the old one gives them up.
        process = self._spawn(start)
        with contextlib.suppress(OSError):
            wire.send(Finish(0))
        ended = wire.wait_for_end(END_PATIENCE_S)
        wire.close()
        if not ended:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
            raise OutputError(
                f"the guard of this line's former configuration (process {welcome.pid}) does not end; "
                f"end it with 'kill -9 {welcome.pid}'"
            )
        return self._begin(process)

    def _connect(self) -> _Wire | None:
        return connect(self._folder)

    def _spawn(self, start: Start) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # The folder is for those who look at the list of processes.
            [sys.executable, "-m", "edge_ad_runtime.guard", start.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A session of its own: a Ctrl-C for the scorer must not reach it.
            start_new_session=True,
            # No module of the working folder may take another's place.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
        # Nobody waits for it otherwise, and it would stay as a zombie until this process ends.
        threading.Thread(target=process.wait, name="guard process", daemon=True).start()
        assert process.stdin is not None
        # One that cannot even begin says so by its end.
        with contextlib.suppress(OSError), process.stdin:
            process.stdin.write(msgspec.json.encode(start))
        return process

    def _begin(self, process: subprocess.Popen[bytes]) -> _Wire:
        """Wait until the process guards, and greet it."""
        patience = threading.Timer(START_PATIENCE_S, process.kill)
        patience.daemon = True
        patience.start()
        try:
            assert process.stdout is not None
            with process.stdout:
                line = process.stdout.readline()
        finally:
            patience.cancel()
        try:
            started = msgspec.json.decode(line, type=Started)
        except msgspec.DecodeError:
            raise OutputError(f"the guard did not start; see {self._folder / LOG}") from None
        if started.error is not None:
            raise OutputError(started.error)
        self.realtime = started.realtime
        wire = self._connect()
        if wire is None:
            raise OutputError(f"the guard ended at once; see {self._folder / LOG}")
        wire.greet()
        return wire

    def _renew(self) -> bool:
        if self._left or (self._is_ending.is_set() and self._final is not None):
            return False
        _log.error("the guard has died; it is started anew")
        backoff = FIRST_RENEWAL_S
        while True:
            # After its scorer's last part a guard is still renewed once, for the sake of the outputs' safe states.
            last_try = self._is_ending.is_set()
            start = Start(
                self._config, os.fspath(self._folder), self._last_part + 1, patient=True, cpus=self._cpus
            )
            try:
                wire = self._find_or_start(start)
            except (EdgeAdError, OSError) as error:
                _log.error("%s", error)
                if last_try:
                    return False
                self._is_ending.wait(backoff)
                backoff = min(2 * backoff, LAST_RENEWAL_S)
                continue
            break
        with self._sending:
            old, self._wire = self._wire, wire
            self._final = None
            if self._drain_ns is not None:
                with contextlib.suppress(OSError):
                    wire.send(Finish(self._drain_ns))
        old.close()
        self.restarts += 1
        return True

    def _replace_hung(self) -> None:
        """Kill it: its lock and its outputs are free then, and its hang-up is noticed as that of any that died."""
        process = self._wire.peer
        _log.error("the guard (process %d) does not answer; it is replaced", process)
        if process > 0:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
