"""The modelled devices' end of the pipes that the guard's ``mock:`` sources read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_ad_runtime.triggers.mock import Fed

# man 7 pipe: up to PIPE_BUF bytes go whole or not at all.
_WHOLE = 4096


class FeedPipe:
    """A device that can be taken away: its source then fails, and cannot be opened again before it is back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.away = False

    def write(self, lines: Sequence[Fed]) -> bool:
        """Returns whether somebody listens and took them."""
        if self.away:
            return False
        try:
            pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            for chunk in _chunks([msgspec.json.encode(line) + b"\n" for line in lines]):
                os.write(pipe, chunk)
        except OSError:
            return False
        finally:
            os.close(pipe)
        return True

    def take_away(self) -> None:
        """The device is unplugged."""
        self.write([Fed(fail="is away (as asked)")])
        self.away = True
        stub = self._path.with_suffix(".away")
        stub.touch()
        stub.replace(self._path)

    def bring_back(self) -> None:
        """It is plugged in again; its source is opened when that is next tried."""
        pipe = self._path.with_suffix(".pipe")
        os.mkfifo(pipe, 0o600)
        pipe.replace(self._path)
        self.away = False


def _chunks(lines: Sequence[bytes]) -> list[bytes]:
    chunks = [b""]
    for line in lines:
        if len(chunks[-1]) + len(line) > _WHOLE:
            chunks.append(b"")
        chunks[-1] += line
    return chunks
