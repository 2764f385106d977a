"""Making the models of the rows, each by an interpreter that has the tools for it.

    python -m tests.studies.compression.making KEY STEP FOLDER

does one step of one row here; :func:`make_missing` does what is missing, in this interpreter or another.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx

from edge_ad_runtime.files import make_folder, write_atomically
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.timing import noise_frame
from edge_ad_runtime.types import Image
from tests.studies.compression.cost import Cost, onnx_cost, openvino_cost
from tests.studies.compression.interpreters import STEP_NEEDS, find_python, run_module
from tests.studies.compression.variants import SIDE, Variant, random_description, random_nets, variants
from tests.studies.peers.models import Made, Model

STEPS: dict[str, tuple[str, ...]] = {
    "plain": ("ort", "openvino", "litert"),
    "fused": ("ours",),
    "anomalib": ("anomalib",),
    "padim": ("padim",),
}
"""What is done for each kind of row."""
_BATCHES = 4


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A step's models. ``variant`` is a hash of what they were made from; ``cost`` None where only another step of
    the row tells it."""

    variant: str
    made: Made
    cost: Cost | None = None


def fingerprint(variant: Variant) -> str:
    """A hash of what the row's models are made from."""
    source = (variant.kind, variant.architecture, variant.directions)
    return hashlib.sha256(repr(source).encode()).hexdigest()


def read_record(folder: Path, variant: Variant, step: str) -> Record | None:
    """What a step made earlier of this very row, if it made anything."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        found = msgspec.json.decode((folder / variant.key / f"{step}.json").read_bytes(), type=Record)
        if found.variant == fingerprint(variant):
            return found
    return None


def models_of(folder: Path, variant: Variant) -> list[Model]:
    """A row's models to be timed, named ``KEY ENGINE``: the first INT8 one of each engine, which is what the
    engine's tool makes by default, and PaDiM's float ones too."""
    found: dict[str, Model] = {}
    for step in STEPS[variant.kind]:
        record = read_record(folder, variant, step)
        for model in record.made.models if record else ():
            wanted = model.precision == "int8" or variant.kind == "padim"
            name = f"{variant.key} {model.engine}{' fp32' if model.precision == 'fp32' else ''}"
            if wanted and name not in found:
                file = f"{variant.key}/{model.file}"
                found[name] = msgspec.structs.replace(model, name=name, file=file)
    return list(found.values())


def cost_of(folder: Path, variant: Variant) -> Cost | None:
    """A row's arithmetic."""
    records = [read_record(folder, variant, step) for step in STEPS[variant.kind]]
    return next((r.cost for r in records if r is not None and r.cost is not None), None)


def failures_of(folder: Path, variant: Variant) -> list[str]:
    """Why models of a row are missing."""
    found = []
    for step in STEPS[variant.kind]:
        record = read_record(folder, variant, step)
        if record is None:
            found.append(f"{variant.words}, {step}: not made")
        elif record.made.failure:
            found.append(f"{variant.words}, {step}: {record.made.failure}")
    return found


def frame() -> Image:
    """A batch of noise, ``uint8 1xSIDExSIDEx3``."""
    spec = PreprocessSpec(height=SIDE, width=SIDE)
    return preprocess(noise_frame([spec]), spec)


def make_missing(folder: Path, chosen: Sequence[Variant], pythons: Sequence[Path]) -> None:
    """Do each step that has not been done, in the first interpreter that has its tools; this one is tried first."""
    for variant in chosen:
        for step in STEPS[variant.kind]:
            if (found := read_record(folder, variant, step)) and not found.made.failure:
                continue
            print(f"== {variant.words}: {step}", flush=True)
            python = find_python(step, pythons)
            if python is None:
                failure = f"no interpreter has {', '.join(STEP_NEEDS[step])} (--python)"
            else:
                failure = run_module(python, __spec__.name, [variant.key, step, str(folder.resolve())])
            if failure:
                _write(folder, variant, step, Made((), failure), None)


def _write(folder: Path, variant: Variant, step: str, made: Made, cost: Cost | None) -> None:
    make_folder(folder / variant.key)
    record = Record(variant=fingerprint(variant), made=made, cost=cost)
    write_atomically(folder / variant.key / f"{step}.json", msgspec.json.format(msgspec.json.encode(record)))


def make(variant: Variant, step: str, folder: Path) -> None:
    """One step of one row in this interpreter; each tool is imported only by its own step."""
    own = folder / variant.key
    make_folder(own)
    if step == "padim":
        from tests.studies.compression import padim

        made, cost = padim.make(own)
        return _write(folder, variant, step, made, cost)
    generator = np.random.default_rng(0)
    batches: list[Image] = [generator.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8) for _ in range(_BATCHES)]
    if step == "anomalib":
        return _write(folder, variant, step, *_make_anomalib(batches, own))
    assert variant.architecture is not None
    if step == "ours":
        from tests.studies.compression import ours

        made, cost = ours.make(random_description(variant), batches, own)
        return _write(folder, variant, step, made, cost)
    from tests.studies.peers.plain import float_input

    nets, inputs = random_nets(variant.architecture), [float_input(b) for b in batches]
    if step == "ort":
        from tests.studies.peers import ort_default

        made = ort_default.make(nets, inputs, own)
        return _write(folder, variant, step, made, onnx_cost(onnx.load(own / "plain-ort.onnx")))
    if step == "openvino":
        from tests.studies.peers import openvino_default

        return _write(folder, variant, step, openvino_default.make(nets, inputs, own), None)
    from tests.studies.peers import litert_default

    return _write(folder, variant, step, litert_default.make(nets, inputs, own), None)


def _make_anomalib(batches: Sequence[Image], folder: Path) -> tuple[Made, Cost]:
    """A checkpoint after one step of training with anomalib, exported by anomalib."""
    from tests.studies import anomalib_import
    from tests.studies.peers import anomalib_export

    library = anomalib_import.declare_operators()
    work = folder / "training"
    anomalib_import.write_images(work)
    checkpoint = anomalib_import.write_checkpoint(work, "small", False, (SIDE, SIDE))
    del library
    made = anomalib_export.make(checkpoint, batches, folder)
    exported = next(m for m in made.models if m.precision == "int8")
    return made, openvino_cost(folder / exported.file)


def main(arguments: Sequence[str]) -> None:
    key, step, folder = arguments
    make(next(v for v in variants() if v.key == key), step, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
