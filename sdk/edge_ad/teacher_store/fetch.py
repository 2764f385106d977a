"""Fetching a published teacher: download, check, take the weights out, import them into the user's cache."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from edge_ad.importing.job import import_teacher_stream
from edge_ad.teacher_store.catalogue import Archive, Published
from edge_ad.teacher_store.download import PATIENT, DownloadError, Patience, download
from edge_ad.teacher_store.folders import State, cache_folder, cached_teacher, check, digest, write_checksum
from edge_ad_runtime.errors import InputError, RunError
from edge_ad_runtime.stopping import StopRequest

_MAX_MEMBER = 256 << 20


def fetch(
    teacher: Published,
    stop: StopRequest,
    given: str | None = None,
    mirror: str | None = None,
    patience: Patience = PATIENT,
    progress: bool = True,
) -> Path:
    """Put a published teacher into the cache; returns its file. One that is there and whole is left as it is.

    Args:
        teacher: which one.
        stop: ends the download, which a later call goes on with.
        given: address or file of the archive, instead of the publisher's.
        mirror: address of a folder that holds the archive, instead of the publisher's.
        patience: of the download.
        progress: show a progress bar.

    Raises:
        DownloadError: the archive cannot be downloaded, or is another file.
        InputError, RunError: the archive is not the published one, or its weights are not a teacher of its size.
    """
    out = cached_teacher(teacher.name)
    if check(out) is State.VERIFIED:
        return out
    archive = _archive(teacher.archive, stop, given, mirror, patience, progress)
    weights = _member(archive, teacher.member)
    out.unlink(missing_ok=True)
    provenance = {
        "source": teacher.archive.source,
        "url": teacher.archive.url,
        "sha256": teacher.archive.sha256,
        "file": teacher.member,
        "licence": teacher.archive.licence,
    }
    imported = import_teacher_stream(io.BytesIO(weights), f"{archive}, {teacher.member}", out, provenance)
    if imported.size != teacher.size:
        out.unlink()
        raise RunError(f"{archive}: {teacher.member} is of size '{imported.size}', not '{teacher.size}'")
    write_checksum(out)
    return out


def _archive(
    archive: Archive,
    stop: StopRequest,
    given: str | None,
    mirror: str | None,
    patience: Patience,
    progress: bool,
) -> Path:
    """The archive's file, its content checked."""
    if given is not None and "://" not in given:
        path = Path(given)
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        if (found := digest(path)) != archive.sha256:
            raise InputError(
                f"{path}: has the SHA-256 {found}, expected {archive.sha256}; it is another file"
            )
        return path
    # Kept there: it holds teachers of several sizes.
    path = cache_folder() / "downloads" / archive.file_name
    if not (path.is_file() and digest(path) == archive.sha256):
        url = given or (f"{mirror.rstrip('/')}/{archive.file_name}" if mirror else archive.url)
        download(url, path, archive.sha256, stop, patience, progress)
    return path


def _member(archive: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as file:
            if file.getinfo(member).file_size > _MAX_MEMBER:
                raise DownloadError(f"{archive}: {member} is larger than a teacher")
            return file.read(member)
    except (KeyError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise InputError(f"{archive}: {member} cannot be read ({error})") from error
