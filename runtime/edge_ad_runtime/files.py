"""Writing files so that a crash or a power cut leaves the old state or the new one, never a mixture.

A process that is killed while it writes leaves its temporary file behind, named
``.NAME.RANDOM.edge-ad-part``. The writer holds a lock (``flock``) on it for as long as it lives, so the
next successful write in the same folder can tell a leftover from a file still being written, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SUFFIX = ".edge-ad-part"
# The eight characters are those that tempfile draws from.
_TEMPORARY = re.compile(r"^\..+\.[a-z0-9_]{8}" + re.escape(_SUFFIX) + "$", re.DOTALL)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: the folder is not writable or the disk is full; ``path`` is then unchanged. Only when the
            last fsync, the folder's, fails is ``path`` new already, though perhaps not durable.
    """
    if not path.parent.is_dir():
        # Not the temporary file, of which nobody knows.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    handle, temporary = _locked_temporary(path, folder=False)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    remove_leftovers(path.parent)


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """A new folder that appears at ``path`` only when the block ends without an error.

    The block fills a temporary folder beside ``path``; every file in it is fsynced, then it is renamed.
    ``path`` must not exist or be an empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _locked_temporary(path, folder=True)
    try:
        try:
            yield temporary
            temporary.chmod(0o755)
            for item in sorted(temporary.rglob("*"), reverse=True):
                sync_folder(item) if item.is_dir() else _sync_file(item)
            sync_folder(temporary)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    finally:
        os.close(handle)
    sync_folder(path.parent)
    remove_leftovers(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its parents durably (each new entry is fsynced); nothing to do where it exists.

    Raises:
        OSError: a parent is not writable, or a file is in the way.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in ``folder``.

    Only names of this module's own pattern are looked at, and those that a living process still writes
    are left alone. What cannot be removed stays; this never raises.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [e.name for e in entries if _TEMPORARY.match(e.name)]:
            with suppress(OSError):
                _remove_if_unused(folder / name)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable (fsync)."""
    _sync_file(folder)


def _locked_temporary(path: Path, folder: bool) -> tuple[int, Path]:
    """A new temporary file or folder beside ``path`` and a handle that holds its lock until it is closed."""
    while True:
        prefix = f".{path.name}."
        if folder:
            temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=path.parent))
            try:
                handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=path.parent)
            temporary = Path(name)
        # A file system without locks: others cannot take the lock either, so they leave the file alone.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Between its creation and the lock, another process may have taken it for a leftover.
        if _names(temporary, handle):
            return handle, temporary
        os.close(handle)


def _remove_if_unused(temporary: Path) -> None:
    handle = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer is alive
        if not _names(temporary, handle):
            return
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _names(path: Path, handle: int) -> bool:
    """Whether ``path`` is still the name of the open file ``handle``."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
