"""One opened port for several outputs: the relays of one board, the devices of one bus.

A serial port is opened for one process alone, and many Modbus devices take one connection only. The outputs of a process
that are given the same :class:`Ports` share what they open, one command at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

from edge_ad_runtime.errors import OutputError


class Closable(Protocol):
    """An opened port."""

    def close(self) -> None: ...

    def abandon(self) -> None:
        """Close it after a failure: what has not been sent yet is dropped."""
        ...


Opened = TypeVar("Opened", bound=Closable)


class _Shared(Generic[Opened]):
    def __init__(self, settings: str, opener: Callable[[], Opened]) -> None:
        self.settings = settings
        self.users = 0
        self.lock = threading.Lock()
        self.opened: Opened | None = None
        self._opener = opener

    def ensure(self) -> Opened:
        """The opened port; the lock is held."""
        if self.opened is None:
            self.opened = self._opener()
        return self.opened

    def drop(self) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            with suppress(Exception):
                opened.abandon()


class Ports:
    """The ports that are open; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[str, _Shared[Any]] = {}

    def attach(self, key: str, settings: str, opener: Callable[[], Opened]) -> Lease[Opened]:
        """Use the port ``key``, opening it by ``opener`` if nobody has.

        Raises:
            OutputError: it is open with other ``settings``; and whatever ``opener`` raises.
        """
        with self._lock:
            shared: _Shared[Opened] = self._shared.setdefault(key, _Shared(settings, opener))
            if shared.settings != settings:
                raise OutputError(
                    f"{key}: is used with {shared.settings} and with {settings}; outputs on one port share "
                    "its settings"
                )
            shared.users += 1
        lease = Lease(self, key, shared)
        try:
            with shared.lock:
                shared.ensure()
        except BaseException:
            lease.close()
            raise
        return lease

    def _detach(self, key: str, shared: _Shared[Any]) -> None:
        with self._lock:
            shared.users -= 1
        # Closing may take long, and must not keep those waiting who use another port. Who attaches meanwhile waits for
        # this one to be closed, and opens it anew.
        try:
            with shared.lock:
                if not shared.users and shared.opened is not None:
                    opened, shared.opened = shared.opened, None
                    opened.close()
        finally:
            with self._lock:
                if not shared.users and self._shared.get(key) is shared:
                    del self._shared[key]


class Lease(Generic[Opened]):
    """One output's share of a port."""

    def __init__(self, ports: Ports, key: str, shared: _Shared[Opened]) -> None:
        self._ports = ports
        self._key = key
        self._shared: _Shared[Opened] | None = shared

    @property
    def closed(self) -> bool:
        return self._shared is None

    @contextmanager
    def use(self) -> Iterator[Opened]:
        """Have the port alone for a command. After an exception it is closed, for all, and the next use opens it anew.

        Raises:
            OutputError: the lease is closed, or the port cannot be opened any more.
        """
        shared = self._shared
        if shared is None:
            raise OutputError(f"{self._key}: is closed")
        with shared.lock:
            opened = shared.ensure()
            try:
                yield opened
            except BaseException:
                shared.drop()
                raise

    def close(self) -> None:
        """Give the share back; the last one closes the port. May be called again."""
        shared, self._shared = self._shared, None
        if shared is not None:
            self._ports._detach(self._key, shared)
