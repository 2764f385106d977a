"""Triggers as datagrams: ``socket:///run/line1.sock`` (a local socket) and ``udp://127.0.0.1:9000``.

Each datagram is a trigger, whatever is in it. One that is a JSON object may give ``t_ns``, its monotonic time on this
machine (time.monotonic_ns(), CLOCK_MONOTONIC), and ``n``, a running number whose gaps are lost triggers. Without ``t_ns``
the time is the one at which the kernel took the datagram in.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.triggers.base import Edge, TriggerError
from edge_ad_runtime.triggers.counting import Numbering
from edge_ad_runtime.triggers.urls import Address

_log = logging.getLogger(__name__)

# A trigger that is older says nothing of where its part is now.
MAX_AGE_NS = 1_000_000_000
_LARGEST = 2048
_MOST_AT_ONCE = 256
# asm-generic/socket.h; not in Python's socket module.
_SO_TIMESTAMPNS = 35
_SO_RXQ_OVFL = 40
_TIMESPEC = struct.Struct("@ll")
_DROPS = struct.Struct("@I")
_ANCILLARY = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_DROPS.size)
# sun_path of man 7 unix, with its closing zero.
_LONGEST_PATH = 107


class _Said(msgspec.Struct):
    t_ns: int | None = None
    n: int | None = None


_decode = msgspec.json.Decoder(_Said).decode


class DatagramTrigger:
    """Takes triggers from a bound socket."""

    def __init__(self, name: str, bound: socket.socket, path: Path | None) -> None:
        self.name = name
        self._socket: socket.socket | None = bound
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        bound.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self._number = bound.fileno()
        self._path = path
        self._identity = None if path is None else _identity(path)
        self._emptied_ns = self._last_ns = time.monotonic_ns()
        self._numbers = Numbering()
        self._dropped = 0
        self._warned = False

    def fileno(self) -> int:
        return self._number

    def read(self) -> list[Edge]:
        if self._socket is None:
            raise TriggerError(f"{self.name}: is closed")
        edges: list[Edge] = []
        for _ in range(_MOST_AT_ONCE):
            begun = time.monotonic_ns()
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, _ANCILLARY)
            except BlockingIOError:
                self._emptied_ns = begun
                break
            except OSError as error:
                raise TriggerError(f"{self.name}: cannot be read ({error.strerror})") from error
            edges.append(self._translate(data, {kind: value for _, kind, value in ancillary}))
        if not edges and self._path is not None and _identity(self._path) != self._identity:
            raise TriggerError(
                f"{self.name}: its file was removed or replaced, so nobody reaches it any more"
            )
        return edges

    def _translate(self, data: bytes, ancillary: dict[int, bytes]) -> Edge:
        # In this order, so that what comes between them makes a time later, never earlier.
        wall = time.time_ns()
        now = time.monotonic_ns()
        lost = self._overrun(ancillary.get(_SO_RXQ_OVFL))
        said = _Said()
        if data.lstrip().startswith(b"{"):
            try:
                said = _decode(data)
            except msgspec.DecodeError as error:
                self._warn(f"a datagram is not what it should be ({error}); it counts as a trigger")
        if said.n is not None:
            lost += self._numbers.lost(said.n)
        t_ns = self._taken_in(ancillary.get(_SO_TIMESTAMPNS), wall, now)
        if said.t_ns is not None:
            if max(self._last_ns, now - MAX_AGE_NS) <= said.t_ns <= now:
                t_ns = said.t_ns
            else:
                # Nobody knows where this part is, so what may be it is rejected.
                t_ns, lost = now, lost + 1
                self._warn(
                    f"t_ns={said.t_ns} is not usable now ({now}): in the future, older than "
                    f"{MAX_AGE_NS / 1e9:g} s or before the trigger that came before it; it counts as lost"
                )
        self._last_ns = max(t_ns, self._last_ns)
        return Edge(self._last_ns, lost)

    def _taken_in(self, stamp: bytes | None, wall: int, now: int) -> int:
        """The kernel's time of a datagram, which it tells by the wall clock only. One that cannot be, since the wall clock
        was set meanwhile, is not used."""
        if stamp is None or len(stamp) != _TIMESPEC.size:
            return now
        seconds, nanoseconds = _TIMESPEC.unpack(stamp)
        t_ns: int = now - (wall - seconds * 1_000_000_000 - nanoseconds)
        return t_ns if self._emptied_ns <= t_ns <= now else now

    def _overrun(self, dropped: bytes | None) -> int:
        """How many datagrams the kernel had no room for before this one."""
        if dropped is None:
            return 0
        (total,) = _DROPS.unpack(dropped)
        lost = (total - self._dropped) % (1 << 32)
        self._dropped = total
        return int(lost)

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s: %s; further ones are not logged", self.name, text)

    def close(self) -> None:
        bound, self._socket = self._socket, None
        if bound is None:
            return
        if self._path is not None and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)
        bound.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True)
class SocketConfig:
    """A local datagram socket at ``path``, made when it is opened; ``mode`` says who may send."""

    path: Path
    mode: int = 0o600

    @property
    def name(self) -> str:
        return f"socket://{self.path}"

    @property
    def physical_key(self) -> str:
        return f"socket {self.path.resolve()}"

    def open(self) -> DatagramTrigger:
        self._remove_stale()
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            bound.bind(os.fspath(self.path))
            self.path.chmod(self.mode)
            return DatagramTrigger(self.name, bound, self.path)
        except OSError as error:
            bound.close()
            raise TriggerError(
                f"{self.name}: cannot be made ({error.strerror}); check the folder and its permissions"
            ) from error

    def _remove_stale(self) -> None:
        """Remove what a process that was killed has left there.

        Raises:
            TriggerError: it is something else, or still in use.
        """
        try:
            kind = self.path.lstat().st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(kind):
            raise TriggerError(f"{self.name}: there is a file of this name that is no socket; remove it")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(os.fspath(self.path))
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    self.path.unlink()
                return
            except OSError as error:
                raise TriggerError(
                    f"{self.name}: is there already and cannot be tried ({error.strerror})"
                ) from error
        raise TriggerError(
            f"{self.name}: another process takes triggers there; end it or choose another name"
        )


@dataclass(frozen=True)
class UdpConfig:
    """A port of this machine alone: anybody on it may trigger, nobody else."""

    host: str
    port: int

    @property
    def name(self) -> str:
        return f"udp://{self.host}:{self.port}"

    @property
    def physical_key(self) -> str:
        return f"udp {self.host} {self.port}"

    def open(self) -> DatagramTrigger:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            bound.bind((self.host, self.port))
            return DatagramTrigger(self.name, bound, None)
        except OSError as error:
            bound.close()
            why = "another program has this port" if error.errno == errno.EADDRINUSE else error.strerror
            raise TriggerError(f"{self.name}: cannot be opened ({why})") from error


def local(at: Address) -> SocketConfig:
    """``socket:///path``; ``mode=660`` lets the group send, ``mode=666`` everybody."""
    path = at.path("socket:///run/edge-ad/line1.sock")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise at.wrong("the path is too long for a socket; choose a shorter one")
    mode = int(at.query("mode").choice("mode", ("600", "660", "666"), "600"), 8)
    return SocketConfig(Path(path), mode)


def udp(at: Address) -> UdpConfig:
    """``udp://127.0.0.1:9000``."""
    host, port = at.host(None, "udp://127.0.0.1:9000")
    if at.parts.path not in ("", "/"):
        raise at.wrong("nothing follows the port")
    at.query()
    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InputError(
            f"{at.where}: must be an address of this machine alone, 127.0.0.1 or [::1]: "
            "a trigger's time is told by this machine's clock"
        )
    return UdpConfig(host, port)
