"""Records as JSON lines, appended to a file or written to standard output."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks.base import QueuedSink

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JsonLinesConfig:
    """``path`` None is standard output."""

    path: Path | None

    @property
    def name(self) -> str:
        return "jsonl:-" if self.path is None else f"jsonl:{self.path}"

    def open(self) -> JsonLines:
        return JsonLines(self.path)


class JsonLines(QueuedSink[PartEvent]):
    """Appends one line for each part, each with one write, as soon as it comes.

    Lines that a full disk or a reader that has gone does not take are lost.
    """

    def __init__(self, path: Path | None) -> None:
        """Open ``path`` for appending, or standard output when it is None.

        Raises:
            InputError: the file cannot be written.
        """
        super().__init__(JsonLinesConfig(path).name)
        if path is None:
            self._file = os.dup(1)
        else:
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise InputError(f"events file {path}: cannot be written ({error.strerror})") from error
            self._end_torn_line()
        self._start()

    def write(self, event: PartEvent) -> None:
        self._put(event)

    def _end_torn_line(self) -> None:
        """A line cut off by a power failure must not swallow the next one."""
        try:
            size = os.fstat(self._file).st_size
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")
        except OSError as error:  # a pipe or a device has no such past; a full disk is told at the first line
            _log.debug("%s: %s", self.name, error)

    def _run(self) -> None:
        encode = msgspec.json.Encoder().encode
        torn = False
        while events := self._take():
            whole = (b"\n" if torn else b"") + encode(events[0]) + b"\n"
            line = whole
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError as error:
                torn = torn or len(line) < len(whole)
                self._lose(1, error.strerror or str(error))
            else:
                torn = False
                self._deliver()

    def _release(self) -> None:
        os.close(self._file)
