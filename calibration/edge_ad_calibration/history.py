"""The calibrations of one bundle on one device: append, use, undo.

They live in ``STATE/<first 16 hex digits of the bundle id>/``:

``000001-<first 16 hex digits of its SHA-256>.json``  a field calibration; never changed or removed
``current.json``  :class:`_Pointer`: the calibrations in use, oldest first; the last is current, none means
                  the factory calibration of the bundle
``lock``          held (``flock``) while something is written

``current.json`` is written before the first calibration, so a lost one is noticed. A process killed between
writing a calibration and pointing at it leaves a calibration that was never used, which does no harm.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from edge_ad_runtime.bundle import Bundle
from edge_ad_runtime.calibration import Calibration, decode_calibration, encode_calibration
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.files import make_folder, write_atomically

POINTER = "current.json"
LOCK = "lock"
_ENTRY = re.compile(r"^(\d{6,})-([0-9a-f]{16})\.json$")


class _Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``bundle`` is the full bundle id, ``used`` the file names of the calibrations in use, oldest first."""

    bundle: str
    used: tuple[str, ...]
    format: Literal["edge-ad calibration history"] = "edge-ad calibration history"
    format_version: Literal[1] = 1


class Entry(msgspec.Struct, frozen=True):
    """One field calibration. ``undone`` when it was rolled back or never came into use.

    ``calibration`` is None where the file is damaged; ``problem`` then says how.
    """

    number: int
    path: Path
    calibration: Calibration | None
    current: bool
    undone: bool
    problem: str | None = None


class History:
    """The field calibrations of one bundle in a state folder.

    Reading needs neither a lock nor a writable or existing folder. Several processes may read and write at
    once.
    """

    def __init__(self, state_dir: Path, bundle: Bundle) -> None:
        self.folder = state_dir / bundle.id[:16]
        self._bundle = bundle

    def current(self) -> Calibration:
        """The calibration to use: the current field calibration, else the bundle's factory calibration.

        Raises:
            CalibrationError: what is stored is damaged, incomplete, or belongs to another bundle.
        """
        used = self._used()
        return self._read(used[-1]) if used else self._bundle.calibration

    def entries(self) -> tuple[Entry, ...]:
        """All field calibrations, oldest first, damaged ones included.

        Raises:
            CalibrationError: it cannot be told which of them are in use.
        """
        used = self._used()
        return tuple(self._entry(name, used) for name in self._names())

    def _entry(self, name: str, used: tuple[str, ...]) -> Entry:
        calibration, problem = None, None
        try:
            calibration = self._read(name)
        except CalibrationError as error:
            problem = str(error)
        return Entry(
            number=_number(name),
            path=self.folder / name,
            calibration=calibration,
            current=bool(used) and name == used[-1],
            undone=name not in used,
            problem=problem,
        )

    def append(self, calibration: Calibration) -> Entry:
        """Store a calibration and make it current.

        Raises:
            CalibrationError: it belongs to another bundle, the state folder is not writable or full, or what
                it holds is damaged. The calibration in use is then the old one (the new one if only the last
                sync of the folder failed).
        """
        self._check_owner(calibration, "this calibration")
        data = encode_calibration(calibration)
        with self._locked():
            used = self._used()
            if not (self.folder / POINTER).exists():
                self._point(())
            number = max(map(_number, self._names()), default=0) + 1
            name = f"{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.json"
            write_atomically(self.folder / name, data)
            self._point((*used, name))
        return Entry(number, self.folder / name, calibration, current=True, undone=False)

    def rollback(self) -> Calibration:
        """Return to the calibration that was in use before the current one; returns it.

        A calibration that was rolled back is out of the sequence: after a later :meth:`append`, undoing that
        leads to the one that was in use when it was made.

        Raises:
            CalibrationError: the factory calibration is already current, the state folder is not writable, or
                what it holds is damaged. The calibration in use is then unchanged (the one before if only the
                last sync of the folder failed).
        """
        if not self._used():  # before the lock, so that a missing state folder is not created
            raise CalibrationError("the factory calibration is already current; there is nothing to undo")
        with self._locked():
            used = self._used()
            if not used:
                raise CalibrationError("the factory calibration is already current; there is nothing to undo")
            kept = used[:-1]
            before = self._bundle.calibration
            while kept:
                try:
                    before = self._read(kept[-1])
                    break
                except CalibrationError:
                    # Undo is the way out of a damaged history, so it must not end at a damaged entry.
                    kept = kept[:-1]
            self._point(kept)
        return before

    def _used(self) -> tuple[str, ...]:
        raw = self._read_file(POINTER)
        if raw is None and self._names():
            # A first calibration may have been written since; its pointer came before it.
            raw = self._read_file(POINTER)
            if raw is None:
                raise CalibrationError(f"{self.folder}: {POINTER} is missing; {self._remedy()}")
        if raw is None:
            return ()
        try:
            pointer = msgspec.json.decode(raw, type=_Pointer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CalibrationError(
                f"{self.folder / POINTER}: is damaged or of an unknown format ({error}); {self._remedy()}"
            ) from error
        if pointer.bundle != self._bundle.id:
            raise CalibrationError(
                f"{self.folder / POINTER}: belongs to the bundle {pointer.bundle[:12]}, this is "
                f"{self._bundle.id[:12]}; {self._remedy()}"
            )
        if foreign := [name for name in pointer.used if not _ENTRY.match(name)]:
            raise CalibrationError(
                f"{self.folder / POINTER}: names '{foreign[0]}', which is not a calibration; {self._remedy()}"
            )
        return pointer.used

    def _read(self, name: str) -> Calibration:
        path = self.folder / name
        raw = self._read_file(name)
        if raw is None:
            raise CalibrationError(f"{path}: is missing; roll back to the calibration before it")
        match = _ENTRY.match(name)
        if match is None or hashlib.sha256(raw).hexdigest()[:16] != match[2]:
            raise CalibrationError(
                f"{path}: has changed since it was written; roll back to the calibration before it"
            )
        calibration = decode_calibration(raw, str(path))
        self._check_owner(calibration, str(path))
        return calibration

    def _read_file(self, name: str) -> bytes | None:
        path = self.folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be read ({error.strerror or error})") from error

    def _names(self) -> list[str]:
        try:
            names = [p.name for p in self.folder.iterdir() if _ENTRY.match(p.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CalibrationError(f"{self.folder}: cannot be read ({error.strerror or error})") from error
        return sorted(names, key=_number)

    def _check_owner(self, calibration: Calibration, what: str) -> None:
        if calibration.bundle != self._bundle.id:
            raise CalibrationError(
                f"{what} belongs to the bundle {calibration.bundle[:12]}, this is {self._bundle.id[:12]}; "
                "recalibrate this one"
            )

    def _point(self, used: tuple[str, ...]) -> None:
        pointer = _Pointer(bundle=self._bundle.id, used=used)
        encoded = msgspec.json.format(msgspec.json.encode(pointer), indent=2) + b"\n"
        write_atomically(self.folder / POINTER, encoded)

    def _remedy(self) -> str:
        return f"remove the folder {self.folder} to start again from the factory calibration"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            make_folder(self.folder)
            handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
        except OSError as error:
            raise CalibrationError(
                f"{self.folder}: the calibration cannot be stored ({error.strerror or error}); choose a "
                "writable state folder with --state or the variable EDGE_AD_STATE"
            ) from error


def _number(name: str) -> int:
    return int(name.partition("-")[0])
