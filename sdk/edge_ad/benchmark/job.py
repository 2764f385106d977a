"""The benchmark: each category and seed trained, evaluated and, if asked for, converted; one after another."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_ad.benchmark.records import (
    BUNDLE,
    RESULT,
    RUN,
    TRAINING,
    Figures,
    Result,
    Training,
    claim_folder,
    pair_folder,
    read_record,
    read_results,
    sort_results,
    write_record,
)
from edge_ad.conversion import ConvertOptions, convert
from edge_ad.data import Dataset, find_datasets, read_dataset
from edge_ad.evaluation.evaluate import Evaluation, evaluate
from edge_ad.run_folder import CALIBRATION, CONFIG, TorchScorer, open_run
from edge_ad.training.job import train
from edge_ad.training.options import TrainOptions, plan
from edge_ad_runtime.errors import DataError, EdgeAdError, InputError
from edge_ad_runtime.stopping import StopRequest


@dataclass(frozen=True)
class Category:
    """A data set and its name in the table."""

    name: str
    dataset: Dataset


@dataclass(frozen=True)
class Benchmark:
    """What came of it: all finished pairs in the folder, why pairs failed, and whether it was stopped."""

    results: tuple[Result, ...]
    failures: tuple[str, ...]
    stopped: bool


def find_categories(paths: Sequence[Path]) -> list[Category]:
    """The data sets that ``paths`` are or hold, by name in each path; names that occur twice get their parent's.

    Raises:
        DataError: a path is and holds no data set, two have the same name, or one cannot be trained or measured.
    """
    folders = [folder for path in paths for folder in _datasets(path)]
    counts = Counter(folder.resolve().name for folder in folders)
    found: dict[str, Category] = {}
    for folder in folders:
        full = folder.resolve()
        name = full.name if counts[full.name] == 1 else f"{full.parent.name}-{full.name}"
        if name in found:
            raise DataError(f"{folder}: another data set is called '{name}' too")
        dataset = read_dataset(folder)
        if not dataset.good:
            raise DataError(f"{folder}: has no good images to train on")
        if len({image.defect for image in dataset.test}) != 2:
            raise DataError(f"{folder}: needs good and defective test images (test/good, test/<defect>)")
        found[name] = Category(name, dataset)
    return list(found.values())


def _datasets(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder")
    if (path / "train" / "good").is_dir() or (path / "test").is_dir():
        return [path]
    # A folder without any is read as a data set itself, and refused with what it lacks.
    return find_datasets(path) or [path]


def run_benchmark(
    categories: Sequence[Category],
    out: Path,
    options: TrainOptions,
    seeds: Sequence[int],
    *,
    device: str,
    int8: bool,
    stop: StopRequest,
    say: Callable[[str], None],
    after_each: Callable[[Sequence[Result]], None],
) -> Benchmark:
    """Do every pair of a category and a seed that ``out`` has no result of; a started one goes on.

    A pair that fails does not stop the others. A request to stop leaves a checkpoint of the run being trained.

    Args:
        categories: from :func:`find_categories`.
        out: a new folder, or that of a benchmark with the same options.
        options: of every training, but for the seed.
        seeds: of the trainings.
        device: ``cpu`` or ``cuda``.
        int8: measure the INT8 bundle too.
        stop: looked at in the training and between pairs.
        say: takes a line for each pair.
        after_each: takes all results of ``out`` whenever there is a new one.

    Raises:
        InputError: ``out`` holds something else, another data set of the same name, or a damaged result.
    """
    claim_folder(out, options)
    done = {(r.category, r.seed): r for r in read_results(out)}
    failures: list[str] = []
    pairs = [(category, seed) for seed in seeds for category in categories]
    stopped = False
    for number, (category, seed) in enumerate(pairs, 1):
        head = f"[{number}/{len(pairs)}] {category.name}, seed {seed}"
        folder = pair_folder(out, category.name, seed)
        if _is_done(done.get((category.name, seed)), folder, category, int8):
            say(f"{head}: done before")
            continue
        say(f"{head} …")
        try:
            result = _pair(folder, category, dataclasses.replace(options, seed=seed), device, int8, stop)
        except EdgeAdError as error:
            failures.append(f"{category.name}, seed {seed}: {error}")
            say(f"{head} failed: {error}")
        else:
            if result is not None:
                done[category.name, seed] = result
                say(f"{head}: image AUROC {_number(result.figures.image_auroc)}")
                after_each(sort_results(done.values()))
        if stopped := stop.requested:
            break
    return Benchmark(tuple(sort_results(done.values())), tuple(failures), stopped)


def _is_done(result: Result | None, folder: Path, category: Category, int8: bool) -> bool:
    if result is None:
        return False
    if result.data != str(category.dataset.root.resolve()):
        raise InputError(f"{folder}: is of {result.data}, not of {category.dataset.root}")
    return result.int8 or not int8


def _pair(
    folder: Path, category: Category, options: TrainOptions, device: str, int8: bool, stop: StopRequest
) -> Result | None:
    """Train, evaluate, convert; None when stopped in the training."""
    if not _train(folder, category, options, device, stop):
        return None
    run = open_run(folder / RUN)
    scorer = TorchScorer(run.nets, run.config.preprocess, run.calibration)
    evaluation = evaluate(scorer, run.config.preprocess, category.dataset, progress=True)
    int8_auroc = int8_aupro = None
    if int8:
        (folder / BUNDLE).unlink(missing_ok=True)
        report = convert(
            run,
            category.dataset.root,
            category.dataset,
            folder / BUNDLE,
            ConvertOptions(seed=options.seed, force=True, sensitivity=False),
        ).report
        int8_auroc, int8_aupro = report["target"]["image_auroc"], report["target"]["aupro"]
    training = read_record(folder / TRAINING, Training)
    result = Result(
        category=category.name,
        data=str(category.dataset.root.resolve()),
        seed=options.seed,
        int8=int8,
        figures=_figures(evaluation, training, int8_auroc, int8_aupro),
    )
    write_record(folder / RESULT, result)
    return result


def _train(folder: Path, category: Category, options: TrainOptions, device: str, stop: StopRequest) -> bool:
    """Train the pair's run as far as it is not trained; returns False when stopped before the end."""
    run = folder / RUN
    if (run / CALIBRATION).is_file():
        return True
    prepared = plan(category.dataset.root, options, device)
    trained = train(run, prepared, device, stop, resume=(run / CONFIG).is_file())
    if trained is None:
        return False
    record = Training(
        steps=trained.steps, seconds=trained.seconds, device=device, threads=torch.get_num_threads()
    )
    write_record(folder / TRAINING, record)
    return True


def _figures(
    evaluation: Evaluation, training: Training | None, int8_auroc: float | None, int8_aupro: float | None
) -> Figures:
    return Figures(
        image_auroc=evaluation.image_auroc,
        image_ap=evaluation.image_ap,
        image_f1=evaluation.image_f1,
        pixel_auroc=evaluation.pixel_auroc,
        aupro=evaluation.aupro,
        spro=evaluation.loco.mean_spro if evaluation.loco else None,
        int8_image_auroc=int8_auroc,
        int8_aupro=int8_aupro,
        # A process killed just after the training leaves a run whose time nobody knows.
        train_seconds=training.seconds if training else None,
        steps=training.steps if training else None,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
