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


def time_all(models: Sequence[Model], out: Path, *, rounds: int, threads: int) -> Latencies:
    """Time the models, whose files stand below ``out``; :data:`BASE` must be among them."""
    result = time_models(models, out, frame(), rounds=rounds, threads=threads, base=BASE)
    write_atomically(out / _FILE, msgspec.json.format(msgspec.json.encode(result)))
    return result


def read_times(out: Path) -> Latencies | None:
    """What an earlier run found."""
    path = out / _FILE
    return msgspec.json.decode(path.read_bytes(), type=Latencies) if path.exists() else None
