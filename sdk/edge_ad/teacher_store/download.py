"""Downloading a file of known content over HTTP, going on where an earlier try stopped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from edge_ad import __version__
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.files import make_folder, sync_folder
from edge_ad_runtime.stopping import StopRequest

_BLOCK = 1 << 18
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class DownloadError(InputError):
    """A file cannot be downloaded, or is not what it should be."""


class DownloadStopped(DownloadError):
    """The user stopped the download; the part so far is kept."""


@dataclass(frozen=True)
class Patience:
    """How long a download is tried: ``tries`` in a row that bring nothing, ``pause`` seconds before the second,
    twice as long before each further one, ``timeout`` seconds without an answer, ``max_bytes`` at most."""

    tries: int = 4
    pause: float = 1.0
    timeout: float = 30.0
    max_bytes: int = 1 << 30


PATIENT = Patience()


class _Retry(Exception):
    """A try failed in a way that another may not."""


def download(
    url: str,
    target: Path,
    sha256: str,
    stop: StopRequest,
    patience: Patience = PATIENT,
    progress: bool = True,
) -> None:
    """Fetch ``url`` to ``target``, which appears only once its SHA-256 is right.

    The part so far lies in ``target.part``, and a later call goes on from there where the server can. A whole file
    with a wrong hash is removed; when it had been begun earlier it is fetched once more from its start.

    Raises:
        DownloadError: no network, the server refuses, the file is too long or has another hash.
        DownloadStopped: ``stop`` was requested.
        OSError: the disk is full, or the folder not writable.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: is not an http or https address")
    make_folder(target.parent)
    with _locked(target.with_name(f"{target.name}.part"), url) as part:
        part.seek(0, os.SEEK_END)
        resumed = part.tell() > 0
        while True:
            _fetch_patiently(url, part, stop, patience, progress)
            found = _digest(part)
            if found == sha256:
                break
            _empty(part)
            if not resumed:
                Path(part.name).unlink()
                raise DownloadError(
                    f"{url}: the file there has the SHA-256 {found}, expected {sha256}; it was removed. It is another "
                    "file, or was changed on the way"
                )
            resumed = False
        os.fsync(part.fileno())
        Path(part.name).replace(target)
    sync_folder(target.parent)


@contextlib.contextmanager
def _locked(path: Path, url: str) -> Iterator[IO[bytes]]:
    """The file of the part so far, for this process alone."""
    with path.open("a+b") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"{url}: another process is downloading it to {path}") from None
        yield part


def _fetch_patiently(
    url: str, part: IO[bytes], stop: StopRequest, patience: Patience, progress: bool
) -> None:
    failures, pause = 0, patience.pause
    while True:
        before = part.seek(0, os.SEEK_END)
        try:
            return _fetch(url, part, stop, patience, progress)
        except _Retry as error:
            if part.seek(0, os.SEEK_END) > before:
                failures, pause = 0, patience.pause
            failures += 1
            if failures >= patience.tries:
                raise DownloadError(
                    f"{url}: cannot be downloaded ({error}). Check the network (HTTPS_PROXY names a proxy), or fetch the "
                    "file elsewhere and give it with --from"
                ) from error
        if stop.wait(pause):
            raise DownloadStopped(f"{url}: stopped; the same command goes on from here")
        pause *= 2


def _fetch(url: str, part: IO[bytes], stop: StopRequest, patience: Patience, progress: bool) -> None:
    """One try: append what is missing."""
    start = part.seek(0, os.SEEK_END)
    headers = {"User-Agent": f"edge-ad/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=patience.timeout
        ) as response:
            if not (response.status == 206 and _continues(response, start)):
                _empty(part)
                start = 0
            _receive(url, response, part, start, stop, patience, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            # Nothing lies beyond what is here: it is whole, or of another file, which its hash will tell.
            return
        if error.code in _RETRIED:
            raise _Retry(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _Retry(str(getattr(error, "reason", None) or error) or type(error).__name__) from error


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return start > 0 and match is not None and int(match.group(1)) == start


def _receive(
    url: str,
    response: http.client.HTTPResponse,
    part: IO[bytes],
    start: int,
    stop: StopRequest,
    patience: Patience,
    progress: bool,
) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None and length.isdecimal() else None
    if total is not None and total > patience.max_bytes:
        raise DownloadError(f"{url}: has {total} bytes, more than the {patience.max_bytes} expected at most")
    have = start
    with tqdm(
        total=total, initial=start, desc=url.rpartition("/")[2], unit="B", unit_scale=True, leave=False,
        disable=not progress,
    ) as bar:  # fmt: skip
        while block := response.read(_BLOCK):
            have += len(block)
            if have > patience.max_bytes:
                raise DownloadError(f"{url}: is longer than the {patience.max_bytes} bytes expected at most")
            part.write(block)
            bar.update(len(block))
            if stop.requested:
                part.flush()
                raise DownloadStopped(f"{url}: stopped at {have} bytes; the same command goes on from here")
    part.flush()
    # http.client ends silently when the connection is cut.
    if total is not None and have < total:
        raise _Retry(f"the connection was cut after {have} of {total} bytes")


def _empty(part: IO[bytes]) -> None:
    part.seek(0)
    part.truncate()


def _digest(part: IO[bytes]) -> str:
    found = hashlib.sha256()
    part.seek(0)
    read: Callable[[int], bytes] = part.read
    while block := read(1 << 20):
        found.update(block)
    return found.hexdigest()
