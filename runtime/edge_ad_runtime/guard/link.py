"""The scorer's end: find or start the guard, talk to it, start it anew when it dies."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.files import make_folder
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import Guard, GuardParts
from edge_ad_runtime.guard.messages import (
    MAX_PACKET,
    PROTOCOL,
    Finish,
    FromGuard,
    Hello,
    Refused,
    Report,
    ToGuard,
    Welcome,
)
from edge_ad_runtime.guard.process import LOG, SOCKET, Start, Started
from edge_ad_runtime.stopping import StopRequest

_log = logging.getLogger(__name__)

START_PATIENCE_S = 20.0
ANSWER_PATIENCE_S = 5.0
# Longer than a guard takes to bring stuck outputs into their safe state.
END_PATIENCE_S = 15.0
# After a stop request, what is due is still given for this long.
STOP_DRAIN_S = 2.0
_END_POLL_S = 0.05

Hearer = Callable[[FromGuard], None]


class GuardLink(Protocol):
    """A connection to a guard."""

    def listen(self, hearer: Hearer) -> None:
        """Hand every message of the guard to ``hearer``, in a thread of the link's own; once."""
        ...

    def tell(self, message: ToGuard) -> bool:
        """Send; returns whether it went. A guard that is gone is started anew meanwhile."""
        ...

    restarts: int
    """How often the guard died and was started anew."""

    def abandon(self) -> None:
        """End the guard after an error of this program; what goes wrong is logged."""
        ...

    def finish(self, drain_s: float, stop: StopRequest | None = None) -> Report:
        """Let the guard give what is due within ``drain_s`` seconds, make the outputs safe and end; a stop request
        meanwhile leaves it :data:`STOP_DRAIN_S`.

        Raises:
            OutputError: the guard is gone, or an output could not be brought into its safe state.
        """
        ...


class _Wire:
    """One packet socket with its encoder and decoder."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(FromGuard).decode

    def send(self, message: ToGuard) -> None:
        self._socket.send(self._encode(message))

    def receive(self) -> FromGuard | None:
        """The next message; None when the guard has hung up."""
        try:
            packet = self._socket.recv(MAX_PACKET)
        except ConnectionError:
            return None
        return self._decode(packet) if packet else None

    def greet(self) -> Welcome:
        """Say hello.

        Raises:
            OutputError: the guard is busy, of another version, or silent.
        """
        self._socket.settimeout(ANSWER_PATIENCE_S)
        try:
            self.send(Hello(PROTOCOL, os.getpid()))
            answer = self.receive()
        except (TimeoutError, OSError, msgspec.DecodeError) as error:
            raise OutputError(f"the guard does not answer ({error})") from error
        if isinstance(answer, Refused):
            raise OutputError(f"the guard refuses: {answer.why}")
        if not isinstance(answer, Welcome):
            raise OutputError("the guard hung up")
        self._socket.settimeout(None)
        return answer

    def close(self) -> None:
        self._socket.close()


class _Link:
    """What both kinds of link share: a thread that listens, and the end."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self.restarts = 0
        self._sending = threading.Lock()
        self._finished = threading.Event()
        self._final: Report | None = None
        self._hearer: Hearer = _ignore
        self._thread = threading.Thread(target=self._listen, name="guard link", daemon=True)

    def listen(self, hearer: Hearer) -> None:
        self._hearer = hearer
        self._thread.start()

    def tell(self, message: ToGuard) -> bool:
        with self._sending:
            try:
                self._wire.send(message)
            except OSError:
                return False
        return True

    def _listen(self) -> None:
        while True:
            message = self._wire.receive()
            if message is None:
                if not self._renew():
                    self._finished.set()
                    return
                continue
            if isinstance(message, Report) and message.final:
                self._final = message
            try:
                self._hearer(message)
            except Exception:  # noqa: BLE001 - a record that cannot be told must not make the link deaf
                _log.exception("a message of the guard could not be handled")

    def _renew(self) -> bool:
        """The guard has hung up; returns whether there is a new one."""
        return False

    def abandon(self) -> None:
        """End the guard after an error of this program; what goes wrong is logged."""
        try:
            self.finish(STOP_DRAIN_S)
        except OutputError as error:
            _log.error("%s", error)

    def finish(self, drain_s: float, stop: StopRequest | None = None) -> Report:
        if not self._thread.is_alive() and not self._finished.is_set():
            self.listen(_ignore)
        self._ending()
        self.tell(Finish(round(drain_s * 1e9)))
        until = time.monotonic() + drain_s
        while not self._finished.wait(_END_POLL_S) and time.monotonic() < until:
            if stop is not None and stop.requested:
                self.tell(Finish(round(STOP_DRAIN_S * 1e9)))
                until = min(until, time.monotonic() + STOP_DRAIN_S)
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

    def _ending(self) -> None:
        """From now on a guard that hangs up is not replaced."""


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
    all its parts; one with another configuration is told to finish first."""

    def __init__(self, config: GuardConfig, state: Path) -> None:
        """Find or start the guard.

        Args:
            config: what it does.
            state: the device's writable folder; the line gets a folder of its own in it.

        Raises:
            OutputError: it cannot be started, or another scorer runs the line.
        """
        self._config = config
        self._folder = state / "lines" / config.line
        make_folder(self._folder)
        self._is_ending = False
        self.realtime = False
        self.taken_over = False
        super().__init__(self._find_or_start())

    def _ending(self) -> None:
        self._is_ending = True

    def _find_or_start(self) -> _Wire:
        wire = self._connect()
        if wire is not None:
            welcome = wire.greet()
            if welcome.config == self._config.digest:
                self.taken_over = True
                return wire
            wire.send(Finish(0))
            while wire.receive() is not None:
                pass
            wire.close()
        return self._start()

    def _connect(self) -> _Wire | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(os.fspath(self._folder / SOCKET))
        except OSError:
            connection.close()
            return None
        return _Wire(connection)

    def _start(self) -> _Wire:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_ad_runtime.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A session of its own: a Ctrl-C for the scorer must not reach it.
            start_new_session=True,
        )
        patience = threading.Timer(START_PATIENCE_S, process.kill)
        patience.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin, process.stdout:
                process.stdin.write(msgspec.json.encode(Start(self._config, os.fspath(self._folder))))
                process.stdin.close()
                line = process.stdout.readline()
        finally:
            patience.cancel()
        # Nobody waits for it otherwise, and it would stay as a zombie until this process ends.
        threading.Thread(target=process.wait, name="guard process", daemon=True).start()
        if not line:
            raise OutputError(f"the guard did not start; see {self._folder / LOG}")
        started = msgspec.json.decode(line, type=Started)
        if started.error is not None:
            raise OutputError(started.error)
        self.realtime = started.realtime
        wire = self._connect()
        if wire is None:
            raise OutputError(f"the guard ended at once; see {self._folder / LOG}")
        wire.greet()
        return wire

    def _renew(self) -> bool:
        backoff = 0.1
        while not self._is_ending:
            _log.error("the guard has died; it is started anew")
            try:
                wire = self._find_or_start()
            except OutputError as error:
                _log.error("%s", error)
                time.sleep(backoff)
                backoff = min(2 * backoff, 5.0)
                continue
            with self._sending:
                self._wire.close()
                self._wire = wire
            self.restarts += 1
            return True
        return False
