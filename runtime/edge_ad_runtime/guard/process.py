"""The guard as a process of its own: ``python -m edge_ad_runtime.guard``.

It gets its configuration as JSON on standard input, with the folder of its socket, and says ``ready`` or what is wrong on
standard output. From then on scorers come and go at the socket ``guard.sock`` in that folder; a lock there keeps a second
guard of the same line away. It imports neither numpy nor an engine, so that it starts in no time and has little to swap.

It outlives its scorer, and rejects every part until the next scorer comes. It ends when a scorer tells it to, and by
SIGTERM: with a scorer that lives, when that ends; without one, when the parts on their way have been rejected; by a second
SIGTERM, at once. Ctrl-C and a closed terminal are the scorer's business. A service manager that ends all processes of a
service when its main process dies (systemd does, unless ``KillMode=process``) ends the guard as well.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import logging
import logging.handlers
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import msgspec

from edge_ad_runtime.errors import EdgeAdError, InputError, OutputError
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import Guard, GuardParts
from edge_ad_runtime.outputs import Ports, parse_output, refuse_shared_lines
from edge_ad_runtime.triggers import parse_belt, parse_encoder, parse_trigger

SOCKET, LOCK, LOG = "guard.sock", "guard.lock", "guard.log"
# sun_path of man 7 unix, with its closing zero.
LONGEST_SOCKET_PATH = 107
# Thread switches in Python; the default of 5 ms would be felt in the pulses.
_SWITCH_S = 0.0005
# man 2 mlockall. Future pages are locked when they are first touched, or each thread would take its 8 MB of stack.
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_PR_SET_TIMERSLACK = 29  # man 2 prctl
# A guard that was told to finish holds its lock until its outputs are safe.
_LOCK_PATIENCE_S = 12.0
_LOCK_POLL_S = 0.005
_LOG_BYTES = 1_000_000
_LOG_QUEUE = 1_000

_log = logging.getLogger(__name__)


class Start(msgspec.Struct, frozen=True):
    """What the process is told: its configuration, and the folder for its socket. ``first_part`` and ``patient`` are those
    of :class:`edge_ad_runtime.guard.core.Guard`. ``cpus`` are the cores to run on; None are those of the parent."""

    config: GuardConfig
    folder: str
    first_part: int = 1
    patient: bool = False
    cpus: tuple[int, ...] | None = None


class Started(msgspec.Struct, frozen=True):
    """Its answer: ``error`` is None when it guards. ``realtime`` says whether the priority was granted."""

    error: str | None
    realtime: bool = False


def parse_parts(config: GuardConfig) -> GuardParts:
    """The devices of a configuration, not opened.

    Raises:
        InputError: a URL is not understood, or two outputs drive one line.
    """
    ports = Ports()
    outputs = [parse_output(url, ports) for url in config.outputs]
    heartbeat = None if config.heartbeat is None else parse_output(config.heartbeat, ports)
    refuse_shared_lines(outputs if heartbeat is None else [*outputs, heartbeat])
    return GuardParts(
        outputs=outputs,
        heartbeat=heartbeat,
        trigger=None if config.trigger is None else parse_trigger(config.trigger),
        encoder=None if config.encoder is None else parse_encoder(config.encoder),
        belt=None if config.belt is None else parse_belt(config.belt),
    )


def _run_on(cpus: tuple[int, ...]) -> None:
    """Leave the scorer's cores; a guard on these cores is better than none."""
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError) as error:
        _log.debug("not on the cores %s: %s", cpus, error)


def be_prompt(priority: int) -> bool:
    """Ask for real-time priority, or at least a better one, and for memory that is never swapped.

    Returns:
        Whether the real-time priority was granted.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()
    _lock_memory()
    # Waits end up to 50 us late otherwise; for threads that begin from now on as well.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
    if not priority:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -15)
        except OSError as error:
            _log.debug("no better priority: %s", error)
        return False
    return True


def _lock_memory() -> None:
    """Keep this process out of the swap, where that cannot end in a lack of memory by the limit on locked memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    future = _MCL_FUTURE | _MCL_ONFAULT
    for flags in (_MCL_CURRENT, future) if unlimited or os.geteuid() == 0 else (_MCL_CURRENT,):
        if libc.mlockall(flags) != 0:
            _log.debug("memory is not locked: %s", os.strerror(ctypes.get_errno()))


def _lock(folder: Path) -> int:
    """Held until the process ends; the file tells this process's number.

    Raises:
        OutputError: another guard holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise OutputError(
                    f"{folder}: another guard runs this line (process {owner}) and does not end; "
                    f"if nothing uses it, end it with 'kill {owner}'"
                ) from None
            time.sleep(_LOCK_POLL_S)
    # Never empty: whoever reads it sees the old number or the new one in its first line.
    os.ftruncate(descriptor, os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0))
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
    # A closed terminal and its Ctrl-C are the scorer's business.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    try:
        lock = _lock(folder)
        parts = parse_parts(start.config)
        if start.cpus is not None:
            _run_on(start.cpus)
        realtime = be_prompt(start.config.priority)
        writer = _log_to(folder / LOG)
        listener = _listen(folder)
        guard = Guard(
            start.config,
            parts,
            listener=listener,
            first_part=start.first_part,
            patient=start.patient,
            realtime=realtime,
        )
    except (EdgeAdError, OSError) as error:
        _answer(Started(str(error).encode("utf-8", "replace").decode()))
        return 1

    def on_term(_number: int, _frame: FrameType | None) -> None:
        guard.terminate()

    signal.signal(signal.SIGTERM, on_term)
    # A signal that comes just before the loop waits must end that wait.
    signal.set_wakeup_fd(os.dup(guard.bell), warn_on_full_buffer=False)
    if stopped.is_set():
        guard.terminate()
    _answer(Started(None, realtime))
    try:
        guard.run()
    except Exception:
        _log.exception("the guard failed")
        raise
    finally:
        # Under its lock: behind it, the socket may be another guard's.
        (folder / SOCKET).unlink(missing_ok=True)
        os.close(lock)
        writer.stop()
    return 0 if guard.unsafe is None else 1


def _log_to(path: Path) -> logging.handlers.QueueListener:
    """Warnings go to a file of limited size, written by a thread: a slow disk must not stop the loop. What Python itself
    says on standard error goes there as well, and whoever waits for the end of the scorer's output gets it."""
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_LOG_QUEUE)
    root = logging.getLogger()
    root.addHandler(logging.handlers.QueueHandler(lines))
    root.setLevel(logging.WARNING)
    logging.raiseExceptions = False
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    writer = logging.handlers.QueueListener(lines, handler)
    writer.start()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return writer


def _answer(started: Started) -> None:
    """One line, then standard output is given up: nobody reads it any more."""
    sys.stdout.write(msgspec.json.encode(started).decode() + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
