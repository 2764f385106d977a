"""All models' times in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_ad_runtime.files import write_atomically
from tests.studies.compression.making import frame
from tests.studies.compression.variants import BASE
from tests.studies.peers.latency import Latencies, time_models
from tests.studies.peers.models import Model

_FILE = "latency.json"


class Timed(msgspec.Struct, frozen=True):
    """The times, and which file each model was: its path below the study's folder, bytes, and time of change."""

    times: Latencies
    files: dict[str, tuple[str, int, int]]


def time_all(models: Sequence[Model], out: Path, *, rounds: int, threads: int) -> Latencies:
    """Time the models, whose files stand below ``out``; :data:`BASE` must be among them."""
    times = time_models(models, out, frame(), rounds=rounds, threads=threads, base=BASE)
    timed = Timed(times, {m.name: (m.file, *_state(out / m.file)) for m in models})
    write_atomically(out / _FILE, msgspec.json.format(msgspec.json.encode(timed)))
    return times


def read_times(out: Path) -> Latencies | None:
    """What an earlier run found of the models that are still the same; None where the base is not."""
    path = out / _FILE
    if not path.exists():
        return None
    timed = msgspec.json.decode(path.read_bytes(), type=Timed)
    same = {
        name
        for name, (file, *state) in timed.files.items()
        if (out / file).exists() and tuple(state) == _state(out / file)
    }
    if timed.times.base not in same:
        return None
    kept = tuple(t for t in timed.times.models if t.model in same)
    return msgspec.structs.replace(timed.times, models=kept)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
