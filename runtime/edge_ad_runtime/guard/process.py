"""The guard as a process of its own: ``python -m edge_ad_runtime.guard``.

It gets its configuration as JSON on standard input, with the folder of its socket, and says ``ready`` or what is wrong on
standard output. From then on scorers come and go at the socket ``guard.sock`` in that folder; a lock there keeps a second
guard of the same line away. It imports neither numpy nor an engine, so that it starts in no time and has little to swap.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

import msgspec

from edge_ad_runtime.errors import EdgeAdError, InputError, OutputError
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import Guard, GuardParts
from edge_ad_runtime.outputs import parse_output
from edge_ad_runtime.triggers import parse_belt, parse_encoder, parse_trigger

SOCKET, LOCK, LOG = "guard.sock", "guard.lock", "guard.log"
# sun_path of man 7 unix, with its closing zero.
LONGEST_SOCKET_PATH = 107
# Thread switches in Python; the default of 5 ms would be felt in the pulses.
_SWITCH_S = 0.0005
_MCL_CURRENT_AND_FUTURE = 3  # man 2 mlockall


class Start(msgspec.Struct, frozen=True):
    """What the process is told: its configuration, and the folder for its socket."""

    config: GuardConfig
    folder: str


class Started(msgspec.Struct, frozen=True):
    """Its answer: ``error`` is None when it guards. ``realtime`` says whether the priority was granted."""

    error: str | None
    realtime: bool = False


def parse_parts(config: GuardConfig) -> GuardParts:
    """The devices of a configuration, not opened.

    Raises:
        InputError: a URL is not understood.
    """
    return GuardParts(
        outputs=[parse_output(url) for url in config.outputs],
        heartbeat=None if config.heartbeat is None else parse_output(config.heartbeat),
        trigger=None if config.trigger is None else parse_trigger(config.trigger),
        encoder=None if config.encoder is None else parse_encoder(config.encoder),
        belt=None if config.belt is None else parse_belt(config.belt),
    )


def be_prompt(priority: int) -> bool:
    """Ask for real-time priority, or at least a better one, and for memory that is never swapped.

    Returns:
        Whether the real-time priority was granted.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()
    try:
        ctypes.CDLL(None).mlockall(_MCL_CURRENT_AND_FUTURE)
    except (OSError, AttributeError) as error:
        logging.getLogger(__name__).debug("memory is not locked: %s", error)
    if not priority:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -15)
        except OSError as error:
            logging.getLogger(__name__).debug("no better priority: %s", error)
        return False
    return True


def _lock(folder: Path) -> int:
    """Held until the process ends.

    Raises:
        OutputError: another guard holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise OutputError(f"{folder}: another guard runs this line") from None
    return descriptor


def _listen(folder: Path) -> socket.socket:
    path = folder / SOCKET
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise InputError(f"{path}: is too long for a socket; choose a shorter state folder")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen(4)
    return listener


def main() -> int:
    """Run a guard; the exit status is 0 when it was told to finish and all outputs are safe."""
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=Start)
    folder = Path(start.folder)
    logging.basicConfig(filename=folder / LOG, format="%(asctime)s %(message)s", level=logging.WARNING)
    # A closed terminal and its Ctrl-C are the scorer's business.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    try:
        lock = _lock(folder)
        parts = parse_parts(start.config)
        realtime = be_prompt(start.config.priority)
        listener = _listen(folder)
        guard = Guard(start.config, parts, listener=listener)
    except (EdgeAdError, OSError) as error:
        _answer(Started(str(error)))
        return 1

    def on_term(_number: int, _frame: FrameType | None) -> None:
        guard.finish(0)

    signal.signal(signal.SIGTERM, on_term)
    if stopped.is_set():
        guard.finish(0)
    _answer(Started(None, realtime))
    try:
        guard.run()
    finally:
        (folder / SOCKET).unlink(missing_ok=True)
        listener.close()
        os.close(lock)
    return 0 if guard.unsafe is None else 1


def _answer(started: Started) -> None:
    """One line, then standard output is given up: nobody reads it any more."""
    sys.stdout.write(msgspec.json.encode(started).decode() + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
