"""What a benchmark keeps on disk, so that it can go on where it was stopped.

``OUT/options.json``                  the options of all its trainings
``OUT/CATEGORY/seed-SEED/run``        the run
``OUT/CATEGORY/seed-SEED/training.json``  :class:`Training`, written when the run is finished
``OUT/CATEGORY/seed-SEED/result.json``    :class:`Result`, written last: a pair without it is not done
``OUT/benchmark.md``, ``OUT/benchmark.json``  the table of what is done
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_ad.training.options import TrainOptions
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.files import make_folder, write_atomically

OPTIONS, TRAINING, RESULT, RUN, BUNDLE = (
    "options.json",
    "training.json",
    "result.json",
    "run",
    "int8.edgead",
)


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How a run came about: its steps, the seconds of all its legs, and the machine's part in them."""

    steps: int
    seconds: float
    device: str
    threads: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured of one category and seed; None is what the data cannot give, or was not asked for.

    ``spro`` is MVTec LOCO AD's mean over both kinds of anomalies. ``int8_*`` are those of the INT8 bundle.
    """

    image_auroc: float | None
    image_ap: float | None
    image_f1: float | None
    pixel_auroc: float | None
    aupro: float | None
    spro: float | None
    int8_image_auroc: float | None = None
    int8_aupro: float | None = None
    train_seconds: float | None
    steps: float | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A finished pair of a category (``data`` is its folder) and a seed; ``int8`` says whether it was converted."""

    category: str
    data: str
    seed: int
    int8: bool
    figures: Figures


_Record = TypeVar("_Record", Training, Result)


def pair_folder(out: Path, category: str, seed: int) -> Path:
    """The folder of one category and seed."""
    return out / category / f"seed-{seed}"


def write_record(path: Path, record: Training | Result) -> None:
    """Write a record durably; its folder is made where it is missing."""
    make_folder(path.parent)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def read_record(path: Path, kind: type[_Record]) -> _Record | None:
    """Read a record; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is damaged ({error}); remove it to measure again") from error


def read_results(out: Path) -> list[Result]:
    """Every finished pair in the folder of a benchmark.

    Raises:
        InputError: one is damaged.
    """
    found = (read_record(path, Result) for path in out.glob(f"*/seed-*/{RESULT}"))
    return sort_results(result for result in found if result is not None)


def sort_results(results: Iterable[Result]) -> list[Result]:
    """By category and seed."""
    return sorted(results, key=lambda r: (r.category, r.seed))


def claim_folder(out: Path, options: TrainOptions) -> None:
    """Begin a benchmark in ``out``, or go on with one of the same options (seeds and categories may be added).

    Raises:
        InputError: ``out`` holds something else, or a benchmark with other options.
    """
    path, given = out / OPTIONS, plain_options(options)
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: exists already and holds no benchmark; choose another folder")
        make_folder(out)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(given)) + b"\n")
        return
    try:
        before = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is damaged ({error})") from error
    # As JSON has it: tuples are lists there.
    now = msgspec.json.decode(msgspec.json.encode(given))
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if names:
        raise InputError(
            f"{out}: this benchmark was started with other options ({', '.join(names)}); use the same ones, or "
            "another folder"
        )


def plain_options(options: TrainOptions) -> dict[str, Any]:
    """The options without the seed, for JSON; paths are made absolute."""
    plain = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name != "seed"}
    return {k: str(v.resolve()) if isinstance(v, Path) else msgspec.to_builtins(v) for k, v in plain.items()}
