"""Engine plans that TensorRT built on this device, kept between two starts.

A plan is machine code for one GPU and one TensorRT version; building it takes minutes. It lies in
``tensorrt/`` of the state folder (:func:`edge_ad_runtime.state.default_state_dir`) under a name made from
everything that it depends on. Each file holds the SHA-256 of that and of the plan: a plan that was damaged,
or stands under another's name, is built anew and not run. The hash is no signature: whoever may write to the
state folder can put code of their own there.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from edge_ad_runtime.engines.base import Precision
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.files import make_folder, write_atomically
from edge_ad_runtime.state import default_state_dir

_MAGIC = b"edge-ad TensorRT plan 1\n"
_HASH_BYTES = hashlib.sha256().digest_size
_log = logging.getLogger(__name__)


class PlanKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that a plan depends on.

    ``model`` is the model's SHA-256 in hexadecimal, ``build`` the number of the way in which edge-ad builds.
    """

    model: str
    tensorrt: str
    gpu: str
    compute_capability: str
    precision: Precision
    build: int


def plan_path(key: PlanKey) -> Path | None:
    """Where the plan of this key lies; None where this user has no state folder."""
    try:
        folder = default_state_dir()
    except InputError as error:
        _log.warning("TensorRT's engine is not kept and is built anew at each start: %s", error)
        return None
    return folder / "tensorrt" / f"{_digest(key).hex()[:32]}.plan"


def read_plan(path: Path, key: PlanKey) -> bytes | None:
    """The plan that was written for this key; None where there is none that is whole. Never raises."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s: cannot be read (%s); TensorRT's engine is built anew", path, error.strerror)
        return None
    start = len(_MAGIC) + _HASH_BYTES
    plan = content[start:]
    if content[:start] != _MAGIC + _checksum(key, plan):
        _log.warning("%s: is damaged or was built for something else; TensorRT's engine is built anew", path)
        return None
    return plan


def write_plan(path: Path, key: PlanKey, plan: bytes) -> None:
    """Keep a plan; where that is not possible a warning says so. Never raises."""
    try:
        make_folder(path.parent)
        write_atomically(path, _MAGIC + _checksum(key, plan) + plan)
    except OSError as error:
        _log.warning(
            "%s: cannot be written (%s); TensorRT's engine is built anew at each start. Make the folder "
            "writable, or set EDGE_AD_STATE to one that is",
            path,
            error.strerror,
        )


def _digest(key: PlanKey) -> bytes:
    return hashlib.sha256(msgspec.json.encode(key)).digest()


def _checksum(key: PlanKey, plan: bytes) -> bytes:
    return hashlib.sha256(_digest(key) + plan).digest()
