"""The bundle: the one file (or folder) that goes to a device. Only this module reads or writes it.

A bundle ``NAME.edgead`` is an uncompressed zip, or the same unpacked as a folder:

``manifest.json``      :class:`Manifest`; holds the SHA-256 of every other file
``model.onnx``         the fused graph (``model.tflite`` for the target tflite)
``calibration.json``   the factory calibration
``golden/NN.npz``      inputs with the maps and scores that they must give
``report.json``        what the conversion measured
``report.html`` …      the same to read: :attr:`Bundle.documents`; older bundles have none

A bundle never changes once written. Its id is the SHA-256 of ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np

from edge_ad_runtime.calibration import Calibration, decode_calibration
from edge_ad_runtime.engines.base import Precision, Target
from edge_ad_runtime.errors import BundleError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.types import FloatArray, Image

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CALIBRATION = "calibration.json"
REPORT = "report.json"
DOCUMENTS = ("report.html", "report.md")
_GOLDEN = "golden/"
# Fixed, so that the same content gives the same bytes (the zip format begins in 1980).
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
# Those of zip that every Python has.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle is. ``files`` maps each other file's name to its SHA-256 in hexadecimal.

    ``map_height`` and ``map_width`` are the size of the raw maps, with tiles of the whole image's; ``gmac`` the
    graph's multiply-accumulates in units of 1e9, with tiles for one of them; ``golden_tolerance`` how far a map
    may be from its golden one, relative to that one's maximum; ``created`` a wall-clock label.
    """

    name: str
    size: str
    target: Target
    precision: Precision
    model: str
    preprocess: PreprocessSpec
    map_height: int
    map_width: int
    gmac: float
    golden_tolerance: float
    created: str
    provenance: dict[str, str]
    files: dict[str, str]
    format: Literal["edge-ad bundle"] = "edge-ad bundle"
    format_version: int = FORMAT_VERSION

    @property
    def image_gmac(self) -> float:
        """Multiply-accumulates for a whole image, in units of 1e9: with tiles, of all of them."""
        grid = self.preprocess.grid
        return self.gmac * (1 if grid is None else len(grid))


class GoldenSample(msgspec.Struct, frozen=True):
    """An input ``uint8 1xHxWx3`` with the maps ``float32 hxw`` and the score that it must give."""

    image: Image
    map_st: FloatArray
    map_ae: FloatArray
    score: float


class Bundle(msgspec.Struct, frozen=True):
    """An opened bundle, every file's hash checked."""

    path: Path
    id: str
    manifest: Manifest
    model: bytes
    calibration: Calibration
    golden: tuple[GoldenSample, ...]
    report: dict[str, Any]
    documents: dict[str, bytes]


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file's hash.

    Raises:
        BundleError: it is missing, incomplete, changed, or of an unknown format.
    """
    contents = _read_folder(path) if path.is_dir() else _read_zip(path)
    if MANIFEST not in contents:
        raise BundleError(f"{path}: has no {MANIFEST}; it is not an edge-ad bundle")
    raw = contents.pop(MANIFEST)
    manifest = _decode_manifest(raw, path)
    _check_files(manifest, contents, path)
    bundle_id = hashlib.sha256(raw).hexdigest()
    try:
        report = msgspec.json.decode(contents[REPORT], type=dict[str, Any])
        golden = tuple(_read_golden(contents[n]) for n in sorted(contents) if n.startswith(_GOLDEN))
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: is damaged ({error})") from error
    # The calibration is written before the manifest that hashes it, so it cannot name the bundle's id.
    calibration = decode_calibration(contents[CALIBRATION], f"{path}: {CALIBRATION}")
    return Bundle(
        path=path,
        id=bundle_id,
        manifest=manifest,
        model=contents[manifest.model],
        calibration=msgspec.structs.replace(calibration, bundle=bundle_id),
        golden=golden,
        report=report,
        documents={n: contents[n] for n in DOCUMENTS if n in contents},
    )


def check_bundle_path(path: Path) -> None:
    """Check, before hours of work, that a bundle can be written to ``path``; makes the folders above it.

    Raises:
        BundleError: ``path`` is a folder, or the folder above it cannot be made or written to.
    """
    if path.is_dir():
        raise BundleError(f"{path}: is a folder; remove it or choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"{path.parent}: cannot be made ({error.strerror})") from error
    if not os.access(path.parent, os.W_OK):
        raise BundleError(f"{path.parent}: is not writable; choose another place for the bundle")


def write_bundle(
    path: Path,
    manifest: Manifest,
    model: bytes,
    calibration: bytes,
    golden: tuple[GoldenSample, ...],
    report: Mapping[str, Any],
    documents: Mapping[str, bytes] | None = None,
) -> None:
    """Write a bundle atomically: a crash leaves the old file, or none, or the whole new one.

    ``manifest.files`` is filled in here; ``calibration`` is the encoded factory calibration,
    ``documents`` are those of :data:`DOCUMENTS` that there are.

    Raises:
        BundleError: see :func:`check_bundle_path`.
        OSError: the disk is full or not writable.
    """
    check_bundle_path(path)
    contents = {
        manifest.model: model,
        CALIBRATION: calibration,
        REPORT: msgspec.json.format(msgspec.json.encode(report), indent=2),
        **(documents or {}),
    }
    for i, sample in enumerate(golden):
        contents[f"{_GOLDEN}{i:02d}.npz"] = _golden_bytes(sample)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}
    manifest = msgspec.structs.replace(manifest, files=hashes)
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: encoded, **contents}.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data)
    write_atomically(path, packed.getvalue())


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            files = [i for i in archive.infolist() if not i.is_dir()]
            if any(i.compress_type not in _COMPRESSIONS for i in files):
                raise zipfile.BadZipFile("unknown compression")
            return {i.filename: archive.read(i) for i in files}
    except FileNotFoundError:
        raise BundleError(f"{path}: there is no such bundle") from None
    # All that zipfile lets through where a header is damaged.
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path}: not a readable bundle ({error})") from error


def _read_folder(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def _decode_manifest(raw: bytes, path: Path) -> Manifest:
    try:
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(f"{path}: bundle format {version} is not known here (this is {FORMAT_VERSION})")
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {MANIFEST} is damaged ({error})") from error


def _check_files(manifest: Manifest, contents: Mapping[str, bytes], path: Path) -> None:
    needed = {manifest.model, CALIBRATION, REPORT}
    if absent := sorted((needed | set(manifest.files)) - set(contents)):
        raise BundleError(f"{path}: lacks {', '.join(absent)}; copy it again")
    if unknown := sorted(set(contents) - set(manifest.files)):
        raise BundleError(f"{path}: holds {', '.join(unknown)}, which its manifest does not name")
    for name, expected in manifest.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BundleError(f"{path}: the file name '{name}' leads out of the bundle")
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise BundleError(f"{path}: {name} has changed since the bundle was written; copy it again")


def _golden_bytes(sample: GoldenSample) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        image=sample.image,
        map_st=sample.map_st,
        map_ae=sample.map_ae,
        score=np.float64(sample.score),
    )
    return buffer.getvalue()


def _read_golden(data: bytes) -> GoldenSample:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return GoldenSample(arrays["image"], arrays["map_st"], arrays["map_ae"], float(arrays["score"]))
