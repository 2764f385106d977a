"""A run's plain graph, quantized by each engine's own default tool, measured in the conversion's own way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image
from tests.studies.compression.interpreters import STEP_NEEDS, find_python, run_module
from tests.studies.compression.subjects import Subject
from tests.studies.peers.models import read_made
from tests.studies.peers.runners import Runner, open_runner

_THREADS = 2


class PlainEngine:
    """A quantized plain graph in the place of one of our engines."""

    def __init__(self, name: str, runner: Runner) -> None:
        self.name, self._runner = name, runner

    def run(self, batch: Image) -> RawMaps:
        """Raw maps of ``uint8 1xHxWx3``."""
        return RawMaps(*self._runner.infer(self._runner.prepare(batch)))


def plain_engine(found: Subject, step: str, pythons: Sequence[Path]) -> PlainEngine:
    """The first INT8 model that the step of :mod:`tests.studies.peers` makes of the run, made now if need be.

    Raises:
        InputError: no interpreter has the tool, or it fails.
    """
    folder = found.folder / "plain"
    made = read_made(folder).get(step)
    if made is None or not made.models:
        python = find_python(step, pythons)
        if python is None:
            raise InputError(f"no interpreter has {', '.join(STEP_NEEDS[step])} (--python)")
        arguments = [str(p.resolve()) for p in (found.path, found.data)]
        arguments += ["-o", str(folder.resolve()), "--steps", step]
        if failure := run_module(python, "tests.studies.peers", arguments):
            raise InputError(f"{found.name}, {step}: {failure}")
        made = read_made(folder)[step]
    model = next((m for m in made.models if m.precision == "int8"), None)
    if model is None:
        raise InputError(f"{found.name}, {step}: {made.failure}")
    return PlainEngine(model.tool, open_runner(model, folder, _THREADS))
