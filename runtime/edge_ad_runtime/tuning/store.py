"""The choice, kept: ``tuning/BUNDLE-CORES.json`` in the state folder, one file for a bundle and a number of cores.

It holds for the same engine version on the same processor. What was chosen for another one, or is damaged, is told in a
warning and not used: a tuning makes a line faster, the lack of one never stops it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from edge_ad_runtime.bundle import Bundle
from edge_ad_runtime.cores import cpu_model, usable_cores
from edge_ad_runtime.engines import EngineOptions, engine_name
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.files import make_folder, write_atomically
from edge_ad_runtime.tuning.choice import Criterion, Timing

FOLDER = "tuning"
_ID_LENGTH = 32
_log = logging.getLogger(__name__)


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``edge-ad tune`` chose, for what, and what it measured.

    ``bundle`` is the bundle's id, ``engine`` the engine with its version, ``cpu`` the processor's name, ``cores`` the
    number of cores that the process might use; ``created`` a wall-clock label.
    """

    bundle: str
    engine: str
    cpu: str
    cores: int
    options: EngineOptions
    by: Criterion
    rounds: int
    candidates: tuple[Timing, ...]
    created: str
    format: Literal["edge-ad tuning"] = "edge-ad tuning"
    format_version: Literal[1] = 1


def tuning_path(state: Path, bundle_id: str, cores: int) -> Path:
    """Where the tuning of a bundle for so many cores lies."""
    return state / FOLDER / f"{bundle_id[:_ID_LENGTH]}-{cores}.json"


def write_tuning(state: Path, tuning: Tuning) -> Path:
    """Keep a tuning, in place of the one before; returns its file.

    Raises:
        OSError: the state folder cannot be written; what was there is unchanged.
    """
    path = tuning_path(state, tuning.bundle, tuning.cores)
    make_folder(path.parent)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(tuning), indent=2))
    return path


def find_tuning(state: Path, bundle: Bundle) -> Tuning | None:
    """The tuning of this bundle for this machine and the cores that this process may use; None where there is none, or none
    that fits, which a warning tells. Never raises."""
    cores = usable_cores()
    path = tuning_path(state, bundle.id, len(cores))
    try:
        tuning = msgspec.json.decode(path.read_bytes(), type=Tuning)
        why = _unfit(tuning, bundle, cores)
    except FileNotFoundError:
        _tell_others(state, bundle.id, len(cores))
        return None
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    except (msgspec.DecodeError, UnicodeDecodeError, InputError) as error:
        why = f"is damaged ({error})"
    except MissingExtra:
        # Opening the engine says so.
        return None
    if why is None:
        return tuning
    _log.warning("%s: %s; the engine runs with its defaults until 'edge-ad tune' is run again", path, why)
    return None


def remove_tunings(state: Path, bundle_id: str) -> list[Path]:
    """Remove the bundle's tunings, for whatever number of cores; returns their files.

    Raises:
        OSError: one cannot be removed.
    """
    found = sorted(_files(state, bundle_id))
    for path in found:
        path.unlink(missing_ok=True)
    return found


def _unfit(tuning: Tuning, bundle: Bundle, cores: tuple[int, ...]) -> str | None:
    """Why a tuning is not for this bundle here."""
    engine, cpu = engine_name(bundle.manifest.target), cpu_model()
    if tuning.bundle != bundle.id:
        return "is of another bundle"
    if tuning.engine != engine:
        return f"was made with {tuning.engine}, this is {engine}"
    if (tuning.cpu, tuning.cores) != (cpu, len(cores)):
        return f"was made on {tuning.cores} cores of {tuning.cpu}, this is {len(cores)} of {cpu}"
    if not set(tuning.options.cpus or ()) <= set(cores):
        return "names cores that this process may not use"
    if (tuning.options.threads or 1) > len(cores):
        return f"asks for {tuning.options.threads} threads on {len(cores)} cores"
    return None


def _tell_others(state: Path, bundle_id: str, cores: int) -> None:
    others = sorted(_cores_of(path) for path in _files(state, bundle_id))
    if others:
        _log.warning(
            "the bundle was tuned for %s cores, this process has %d; the engine runs with its defaults until 'edge-ad tune' "
            "is run with as many",
            " and ".join(map(str, others)),
            cores,
        )


def _files(state: Path, bundle_id: str) -> Iterator[Path]:
    prefix = f"{bundle_id[:_ID_LENGTH]}-"
    try:
        names = [path.name for path in (state / FOLDER).iterdir()]
    except OSError:
        return
    for name in names:
        if name.startswith(prefix) and name.endswith(".json") and name[len(prefix) : -5].isdigit():
            yield state / FOLDER / name


def _cores_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
