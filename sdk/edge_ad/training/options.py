"""The options of a training as a user gives them, and the run's configuration that they come to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from edge_ad.data import Dataset, Split, content_hash, read_dataset, split_good
from edge_ad.nets.architecture import (
    AUTOENCODERS,
    AutoencoderKind,
    check_directions,
    check_shared_layers,
    check_width,
)
from edge_ad.run_folder import RunConfig
from edge_ad.teacher import find_teacher, load_teacher
from edge_ad.training.feed import GENERATED
from edge_ad.training.schedules import parse_schedule
from edge_ad_runtime.calibration import PAPER_MIX, Mix, MixChoice
from edge_ad_runtime.errors import InputError, RunError
from edge_ad_runtime.preprocess import PreprocessSpec, Roi
from edge_ad_runtime.score_rule import parse_score
from edge_ad_runtime.tiling import DEFAULT_OVERLAP, TileSpec

PAPER_STEPS, NANO_STEPS = 70_000, 2_000
# Few steps need larger ones: measured in docs/training.md.
PAPER_RATE, NANO_RATE = 1e-4, 4e-4
DECAY_AT = 0.95
# Between two evaluation points, so that a tiny data set's short epochs do not cost more in validating.
MIN_STEPS_BETWEEN = 100
EPOCH = "epoch"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What ``edge-ad train`` takes; None lets the size or the machine decide.

    Args:
        size: ``n``, ``s`` or ``m``.
        teacher: a teacher's file, or a name that ``edge-ad teachers`` lists; None is the one that comes with the size.
        steps: training steps; at most one of ``steps``, ``epochs`` and ``budget`` is given.
        epochs: passes over the training images.
        budget: seconds that the whole training may take; chooses the steps.
        batch: images a step.
        rate: Adam's learning rate.
        optimizers: ``joint``: one for student and autoencoder, as in the paper; ``separate``: one each.
        autoencoder_rate: the autoencoder's learning rate, with ``separate``; None is ``rate``.
        weight_decay: Adam's.
        decay_at: fraction of the steps after which the learning rate falls to a tenth.
        hard_quantile: a number or a schedule, see :func:`edge_ad.training.schedules.parse_schedule`.
        image_size: height and width that images are resized to, at least 256 each; the nets' input, unless
            there are tiles.
        roi: the region of the images that is looked at, cut out before resizing; None is all of it.
        tile: height and width of the tiles that images are cut into, at least 256 each: the nets' input. None:
            no tiles.
        tile_overlap: least overlap of neighbouring tiles in pixels, a multiple of 4.
        shared_layers: leading convolutions that the student takes, frozen, from the teacher; None is the
            size's own.
        directions: how many of the leading principal directions of the teacher's output are learned (a whole
            number), or the share of the energy that they are to keep (between 0 and 1); None: all channels.
        autoencoder: ``paper`` or ``light``; None is the size's own.
        width: share of the hidden channels of teacher and student that are kept; None is all.
        padding: the nets pad, so that the map reaches the image's border.
        validation: share of the good images held out.
        group: see :func:`edge_ad.data.split_good`.
        penalty: ``generated``, ``none``, or a folder of unrelated images.
        precision: ``auto``, ``fp32`` or ``bf16`` convolutions.
        score: rule of the image score, see :mod:`edge_ad_runtime.score_rule`.
        mix: weights of the two maps, or ``auto``.
        background: take the autoencoder map's mean over good images off it, cell by cell.
        patience: evaluation points without progress after which the training ends early; None: never.
        labelled: a labelled data set whose image AUROC is measured at each evaluation point.
        evaluate_every: steps between evaluation points, or ``epoch``.
        keep: ``last``: the nets of the last step; ``best``: those of the best evaluation point; ``all``:
            every evaluation point's beside the last ones.
        seed: of every random choice, 0 to 2^63 - 1.

    Raises:
        InputError: an option does not do, or two exclude each other.
    """

    size: str = "n"
    teacher: Path | str | None = None
    steps: int | None = None
    epochs: int | None = None
    budget: float | None = None
    batch: int = 1
    rate: float | None = None
    optimizers: Literal["joint", "separate"] = "joint"
    autoencoder_rate: float | None = None
    weight_decay: float = 1e-5
    decay_at: float = DECAY_AT
    hard_quantile: str = "0.999"
    image_size: tuple[int, int] = (256, 256)
    roi: Roi | None = None
    tile: tuple[int, int] | None = None
    tile_overlap: int = DEFAULT_OVERLAP
    shared_layers: int | None = None
    directions: int | float | None = None
    autoencoder: AutoencoderKind | None = None
    width: float | None = None
    padding: bool = False
    validation: float = 0.1
    group: str | None = None
    penalty: str = GENERATED
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    score: str = "max"
    mix: MixChoice = PAPER_MIX
    background: bool = True
    patience: int | None = None
    labelled: Path | None = None
    evaluate_every: int | Literal["epoch"] = "epoch"
    keep: Literal["last", "best", "all"] = "last"
    seed: int = 42

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.steps, self.epochs, self.budget)) > 1:
            raise InputError("give one of steps, epochs and budget")
        if self.autoencoder_rate is not None and self.optimizers == "joint":
            raise InputError("a learning rate of the autoencoder's own needs separate optimizers")
        if not 0 < self.decay_at <= 1:
            raise InputError(f"the learning rate's drop at {self.decay_at} must lie between 0 and 1")
        if not 0 < self.validation < 1:
            raise InputError(f"the validation share {self.validation} must lie between 0 and 1")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"the weight decay {self.weight_decay} must be at least 0")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"the seed {self.seed} must lie between 0 and 2^63 - 1")
        if not (isinstance(self.mix, Mix) or self.mix == "auto"):
            raise InputError(f"the mix {self.mix!r} must be a Mix or 'auto'; parse_mix reads text")
        _positive("budget", self.budget)
        _positive("learning rate", self.rate)
        _positive("learning rate of the autoencoder", self.autoencoder_rate)
        _at_least_one("steps", self.steps)
        _at_least_one("epochs", self.epochs)
        _at_least_one("batch", self.batch)
        _at_least_one("patience", self.patience)
        if self.evaluate_every != EPOCH:
            _at_least_one("steps between two evaluation points", self.evaluate_every)
        _known("optimizers", self.optimizers, ("joint", "separate"))
        _known("precision", self.precision, ("auto", "fp32", "bf16"))
        if self.autoencoder is not None:
            _known("autoencoder", self.autoencoder, AUTOENCODERS)
        if self.shared_layers is not None:
            check_shared_layers(self.size, self.shared_layers)
        if self.directions is not None:
            check_directions(self.directions)
        if self.width is not None:
            check_width(self.width)
        _known("keep", self.keep, ("last", "best", "all"))
        parse_schedule(self.hard_quantile)
        parse_score(self.score)
        if self.tile is not None and self.padding:
            raise InputError(
                "tiles need nets without padding: a cell at a tile's border would see its padding"
            )
        # Made to be checked.
        _ = self.preprocess

    @property
    def preprocess(self) -> PreprocessSpec:
        """How an image becomes the nets' input.

        Raises:
            InputError: the tiles do not fit.
        """
        height, width = self.image_size
        tiles = None if self.tile is None else TileSpec(*self.tile, self.tile_overlap)
        return PreprocessSpec(height=height, width=width, roi=self.roi, tiles=tiles)


def _positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"the {name} {value} must be a number above 0")


def _at_least_one(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, int) and value >= 1):
        raise InputError(f"the {name}, {value}, must be a whole number of at least 1")


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} '{value}' is unknown; use {', '.join(known)}")


@dataclass(frozen=True)
class Plan:
    """A training ready to start: its images, its configuration, its teacher, and what is odd about them."""

    dataset: Dataset
    split: Split
    config: RunConfig
    teacher: Path
    labelled: Dataset | None
    warnings: tuple[str, ...] = ()


def plan(data: Path, options: TrainOptions, device: str) -> Plan:
    """Read the data set, split it, and work the options out.

    Raises:
        DataError: the data set does not do.
        InputError, RunError: an option does not do.
    """
    dataset = read_dataset(data)
    split = split_good(dataset, options.validation, options.seed, options.group)
    path, name, digest = find_teacher(options.size, Path(options.teacher) if options.teacher else None)
    teacher, size, _ = load_teacher(path)
    if size != options.size:
        raise RunError(f"{path}: is a teacher of size '{size}', not '{options.size}'")
    channels, directions = teacher.out_channels, options.directions
    if directions is not None:
        check_directions(directions, channels)
    nano = options.size == "n"
    rate = options.rate or (NANO_RATE if nano else PAPER_RATE)
    spec = options.preprocess
    images = len(split.train) * (len(spec.grid) if spec.grid is not None else 1)
    labelled = read_dataset(options.labelled) if options.labelled else None
    config = RunConfig(
        size=options.size,
        data=str(data.resolve()),
        teacher=name,
        teacher_sha256=digest,
        preprocess=spec,
        padded=options.padding,
        # A share of the energy becomes a number when the training starts.
        teacher_channels=directions if isinstance(directions, int) else None if directions else channels,
        directions=directions,
        projected_from=channels if directions is not None else None,
        shared_layers=options.shared_layers,
        autoencoder=options.autoencoder,
        width=None if options.width == 1 else options.width,
        steps=_steps(options, images, nano),
        batch=options.batch,
        rate=rate,
        autoencoder_rate=(options.autoencoder_rate or rate) if options.optimizers == "separate" else None,
        weight_decay=options.weight_decay,
        decay_at=options.decay_at,
        hard_quantile=options.hard_quantile,
        validation=options.validation,
        group=options.group,
        penalty=_penalty(options.penalty),
        precision=_precision(options.precision, device),
        score=options.score,
        mix=options.mix,
        background=options.background,
        patience=options.patience,
        labelled=str(options.labelled.resolve()) if options.labelled else None,
        evaluate_every=_evaluate_every(options, images),
        keep=options.keep,
        budget=options.budget,
        seed=options.seed,
    )
    return Plan(dataset, split, config, path, labelled, tuple(_warnings(dataset, split, config, labelled)))


def parse_budget(text: str) -> float:
    """Read ``90s``, ``10m`` or ``1.5h`` as seconds.

    Raises:
        InputError: the text is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or float(match.group(1)) == 0:
        raise InputError(f"the budget '{text}' is not a time like 90s, 10m or 1.5h")
    return float(match.group(1)) * _UNITS[match.group(2)]


def parse_directions(text: str) -> int | float:
    """Read ``32`` as a number of directions, ``0.99`` as a share of the energy.

    Raises:
        InputError: the text is neither.
    """
    try:
        directions = int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        raise InputError(
            f"the directions '{text}' are neither a number of them (32) nor a share of the energy (0.99)"
        ) from None
    check_directions(directions)
    return directions


def steps_of_epochs(epochs: int, images: int, batch: int) -> int:
    """How many steps show every image ``epochs`` times."""
    return math.ceil(epochs * images / batch)


def _warnings(dataset: Dataset, split: Split, config: RunConfig, labelled: Dataset | None) -> list[str]:
    found = [*dataset.warnings]
    found += [f"{p} repeats another image and is left out" for p in split.duplicates]
    found += [f"{p} is a test image too and is left out of the training" for p in split.leaking]
    if config.penalty is None:
        found.append(
            "without penalty images the student is not kept from imitating the teacher on anything but good parts"
        )
    if labelled is not None:
        chosen = config.keep == "best" or config.patience is not None
        if chosen and labelled.root.resolve() == dataset.root.resolve():
            found.append(
                f"the nets are chosen on the test images of {dataset.root}: figures measured on these will be too "
                "good"
            )
        seen = {content_hash(p) for p in (*split.train, *split.validation)}
        if both := sum(content_hash(image.path) in seen for image in labelled.test):
            found.append(
                f"{both} images of {labelled.root} are trained on or held out too: the image AUROC on it will be "
                "too good"
            )
    grid = config.preprocess.grid
    if (
        grid is not None
        and config.budget is None
        and (seen_tiles := config.steps * config.batch) < (tiles := len(split.train) * len(grid))
    ):
        found.append(
            f"{config.steps} steps show the nets {seen_tiles} of the {tiles} tiles of the {len(split.train)} images; "
            f"--epochs 1 shows them all"
        )
    points = math.ceil(config.steps / config.evaluate_every)
    if config.patience is not None and config.budget is None and points <= config.patience:
        found.append(
            f"a patience of {config.patience} never ends the training early: it has {points} evaluation "
            "points only"
        )
    return found


def _steps(options: TrainOptions, images: int, nano: bool) -> int:
    if options.epochs:
        return steps_of_epochs(options.epochs, images, options.batch)
    # With a budget this number stands in until the speed has been measured.
    return options.steps or (NANO_STEPS if nano else PAPER_STEPS)


def _evaluate_every(options: TrainOptions, images: int) -> int:
    if isinstance(options.evaluate_every, int):
        return options.evaluate_every
    epoch = steps_of_epochs(1, images, options.batch)
    return epoch * math.ceil(MIN_STEPS_BETWEEN / epoch)


def _penalty(text: str) -> str | None:
    if text == "none":
        return None
    return text if text == GENERATED else str(Path(text).resolve())


def _precision(wanted: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16"]:
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Emulated, bf16 convolutions are slower than float32 ones.
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
