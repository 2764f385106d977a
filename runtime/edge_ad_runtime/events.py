"""The record of every part, as JSON lines: ``jsonl:FILE``, or ``jsonl:-`` for standard output."""

from __future__ import annotations

import logging
import os
import queue
import threading
from pathlib import Path
from typing import Literal

import msgspec

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.verdict import Fault

_log = logging.getLogger(__name__)

# Lines that may wait for a slow disk or reader; beyond that they are counted as lost.
MAX_WAITING = 10_000
CLOSE_PATIENCE_S = 5.0


class PartEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part.

    ``part`` counts from 1; ``score`` is null where there is none; ``latency_ms`` is from ``t_monotonic_ns``, the frame's
    time or, with a trigger, the trigger's, to the verdict; ``time`` is a wall-clock label (ISO 8601, UTC) of the verdict.
    ``fault`` says in words why there is no verdict of the model, ``fault_kind`` in one word
    (:class:`edge_ad_runtime.verdict.Fault`); both are absent otherwise. ``ejected`` says whether a pulse was meant for
    the part; it is absent where nobody knows.
    """

    part: int
    source: str
    score: float | None
    threshold: float
    verdict: Literal["pass", "reject", "fault"]
    latency_ms: float
    t_monotonic_ns: int
    time: str
    fault: str | None = None
    fault_kind: Fault | None = None
    ejected: bool | None = None


class JsonLines:
    """Appends one line for each part, written out at once, from a thread of its own.

    A disk that is full or a reader that has gone never stops the line: such lines are counted in ``lost``,
    and the first one is logged.
    """

    def __init__(self, path: Path | None) -> None:
        """Open ``path`` for appending, or standard output when it is None.

        Raises:
            InputError: the file cannot be written.
        """
        self.name = "jsonl:-" if path is None else f"jsonl:{path}"
        # Two counts, since each is raised by another thread.
        self._dropped = self._failed = 0
        if path is None:
            self._file = os.dup(1)
        else:
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise InputError(f"events file {path}: cannot be written ({error.strerror})") from error
            self._end_torn_line()
        self._encoder = msgspec.json.Encoder()
        self._waiting: queue.SimpleQueue[PartEvent | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name=self.name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Parts whose line could not be written."""
        return self._dropped + self._failed

    def _end_torn_line(self) -> None:
        """A line cut off by a power failure must not swallow the next one."""
        try:
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")
        except OSError as error:  # a pipe or a device has no such past; a full disk is told at the first line
            _log.debug("%s: %s", self.name, error)

    def write(self, event: PartEvent) -> None:
        """Queue one part's line; never waits."""
        if self._closed or self._waiting.qsize() >= MAX_WAITING:
            self._dropped += 1
            self._warn(self._dropped, "more lines wait than the disk or the reader takes")
        else:
            self._waiting.put(event)

    def close(self) -> None:
        """Write what is waiting, for at most five seconds, and close."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        self._thread.join(CLOSE_PATIENCE_S)
        if self._thread.is_alive():
            self._dropped += self._waiting.qsize()
            _log.warning("%s: takes no more lines; the last ones are lost", self.name)

    def _write_all(self) -> None:
        torn = False
        while (event := self._waiting.get()) is not None:
            whole = (b"\n" if torn else b"") + self._encoder.encode(event) + b"\n"
            line = whole
            try:
                while line:
                    line = line[os.write(self._file, line) :]
                torn = False
            except OSError as error:
                torn = torn or len(line) < len(whole)
                self._failed += 1
                self._warn(self._failed, error.strerror or str(error))
        os.close(self._file)

    def _warn(self, count: int, why: str) -> None:
        if count == 1:
            _log.warning("%s: a part's line is lost (%s); the line goes on", self.name, why)


def open_events(text: str) -> JsonLines:
    """Open an events sink.

    Raises:
        InputError: the text is not ``jsonl:FILE`` or ``jsonl:-``, or the file cannot be written.
    """
    return JsonLines(parse_events(text))


def parse_events(text: str) -> Path | None:
    """The file of ``jsonl:FILE``, None for ``jsonl:-``.

    Raises:
        InputError: the text is something else.
    """
    kind, _, target = text.partition(":")
    if kind != "jsonl" or not target:
        raise InputError(f"events '{text}': must be jsonl:FILE, or jsonl:- for standard output")
    return None if target == "-" else Path(target)
