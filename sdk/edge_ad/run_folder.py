"""A run: the folder that training fills and that evaluation and conversion read.

``config.json``             :class:`RunConfig`
``split.json``              which image, by content, was trained on, and which validated
``teacher.safetensors``     the three networks
``student.safetensors``
``autoencoder.safetensors``
``normalization.safetensors``  the teacher's channel mean and deviation
``calibration.json``        quantiles and threshold of the float nets; written last: a run without it is unfinished
``metrics.jsonl``           one line for each report and each evaluation point of the training
``curves.png``              the same as a picture
``points``                  evaluation points that were kept, each a run of its own
``checkpoint.safetensors``  what resuming needs; gone when the training is done
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from edge_ad.checkpoint import load_module, load_tensors, save_tensors
from edge_ad.nets.architecture import (
    AutoencoderKind,
    architecture,
    autoencoder_spec,
    check_directions,
    check_shared_layers,
    check_width,
    narrow_pdn,
)
from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad_runtime.calibration import (
    PAPER_MIX,
    Calibration,
    MixChoice,
    decode_calibration,
    encode_calibration,
)
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.engines.tiled import whole_image_engine
from edge_ad_runtime.errors import RunError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.score_rule import parse_score
from edge_ad_runtime.types import Image

CONFIG, SPLIT, CALIBRATION, CHECKPOINT = (
    "config.json",
    "split.json",
    "calibration.json",
    "checkpoint.safetensors",
)
NETS = ("teacher", "student", "autoencoder")
NORMALIZATION = "normalization.safetensors"
FORMAT_VERSION = 2
TRAINED = "trained"


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that shapes a run.

    Args:
        size: ``n``, ``s`` or ``m``.
        data: the data set's folder as it was given.
        teacher: describes the teacher's file.
        teacher_sha256: of that file.
        preprocess: the nets' input; with tiles the nets are of a tile's size.
        padded: the patch description networks pad, so that the map reaches the image's border.
        teacher_channels: descriptors' length; None is the size's own.
        directions: the principal directions of the teacher's output that are learned, as asked for: how many,
            or the share of the energy that they keep; ``teacher_channels`` is what that came to. None: all
            channels as they are.
        projected_from: the teacher's channels before the projection on these directions.
        shared_layers: leading convolutions that the student takes, frozen, from the teacher; None is the
            size's own.
        autoencoder: its kind; None is the size's own.
        width: share of the hidden channels of teacher and student that are kept; None is all.
        steps: training steps; in a finished run those that the nets have seen; 0 for imported nets.
        batch: images a step.
        rate: Adam's learning rate.
        autoencoder_rate: that of the autoencoder, with an optimizer of its own; None is one for both.
        weight_decay: Adam's.
        decay_at: fraction of the steps after which the learning rate falls to a tenth.
        hard_quantile: share of the squared differences below the hard-feature loss, as
            :func:`edge_ad.training.schedules.parse_schedule` reads it.
        validation: share of the good images held out.
        group: see :func:`edge_ad.data.split_good`.
        penalty: ``generated``, None, or the folder of the penalty images.
        precision: of the convolutions while training: ``fp32`` or ``bf16``.
        score: the image score, as :func:`edge_ad_runtime.score_rule.parse_score` reads it.
        mix: weights of the two maps, or ``auto``: chosen on the validation images.
        background: the autoencoder map is taken less its mean over good images.
        patience: evaluation points without progress before an early stop; None is no early stop.
        labelled: folder of a labelled validation set, if any.
        evaluate_every: steps between two evaluation points.
        keep: which evaluation points' nets are kept.
        budget: seconds that the training was to take, if that chose ``steps``.
        seed: of every random choice.
        origin: how the nets came here: ``trained``, or what they were imported from.
    """

    size: str
    data: str
    teacher: str
    teacher_sha256: str
    preprocess: PreprocessSpec
    steps: int
    batch: int
    rate: float
    weight_decay: float
    decay_at: float
    hard_quantile: str
    validation: float
    group: str | None
    penalty: str | None
    seed: int
    padded: bool = False
    teacher_channels: int | None = None
    directions: int | float | None = None
    projected_from: int | None = None
    shared_layers: int | None = None
    autoencoder: AutoencoderKind | None = None
    width: float | None = None
    autoencoder_rate: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    score: str = "max"
    mix: MixChoice = PAPER_MIX
    background: bool = False
    patience: int | None = None
    labelled: str | None = None
    evaluate_every: int = 1000
    keep: Literal["last", "best", "all"] = "last"
    budget: float | None = None
    origin: str = TRAINED
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.steps < (1 if self.origin == TRAINED else 0) or self.batch < 1 or self.evaluate_every < 1:
            raise RunError("steps, batch and the steps between two evaluations must be at least 1")
        if not 0 < self.validation < 1:
            raise RunError(f"the validation share {self.validation} must lie between 0 and 1")
        if self.patience is not None and self.patience < 1:
            raise RunError(f"the patience {self.patience} must be at least 1 evaluation point")
        if (self.directions is None) != (self.projected_from is None):
            raise RunError("directions and projected_from belong together")
        if self.directions is not None:
            check_directions(self.directions, self.projected_from)
        if self.padded and self.preprocess.tiles is not None:
            raise RunError(
                "padded nets do not go with tiles: a cell at a tile's border would see its padding"
            )
        if self.width is not None:
            check_width(self.width)
        if self.shared_layers is not None:
            check_shared_layers(self.size, self.shared_layers)
        parse_score(self.score)


class _Version(msgspec.Struct, frozen=True):
    format_version: int = FORMAT_VERSION


class SplitRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """File name to content hash (SHA-256) of the images trained on and of those held out for validation."""

    train: dict[str, str]
    validation: dict[str, str]


class Run(msgspec.Struct, frozen=True):
    """A finished run."""

    path: Path
    config: RunConfig
    split: SplitRecord
    nets: EfficientAdNets
    calibration: Calibration


def build_nets(config: RunConfig) -> EfficientAdNets:
    """The networks of a run with fresh weights."""
    spec, shape = config.preprocess, architecture(config.size)
    shape = dataclasses.replace(shape, projected_from=config.projected_from)
    if config.teacher_channels is not None:
        shape = dataclasses.replace(shape, teacher_channels=config.teacher_channels)
    if config.width is not None:
        shape = dataclasses.replace(shape, pdn=narrow_pdn(shape.pdn, config.width))
    if config.shared_layers is not None:
        shape = dataclasses.replace(shape, shared_layers=config.shared_layers)
    if config.autoencoder is not None:
        shape = dataclasses.replace(shape, autoencoder=autoencoder_spec(config.size, config.autoencoder))
    return EfficientAdNets(shape, spec.network_size, config.padded)


def write_config(path: Path, config: RunConfig, split: SplitRecord) -> None:
    """Begin a run's folder."""
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / SPLIT, msgspec.json.format(msgspec.json.encode(split)))
    write_atomically(path / CONFIG, msgspec.json.format(msgspec.json.encode(config)))


def read_config(path: Path) -> tuple[RunConfig, SplitRecord]:
    """Read what a run was made with, finished or not.

    Raises:
        RunError: the folder is no run, or is damaged.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: is not a run (no {CONFIG}); 'edge-ad train' makes one")
    try:
        data = (path / CONFIG).read_bytes()
        version = msgspec.json.decode(data, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise RunError(f"{path}: run format {version} is not known here (this is {FORMAT_VERSION})")
        config = msgspec.json.decode(data, type=RunConfig)
        split = msgspec.json.decode((path / SPLIT).read_bytes(), type=SplitRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: the run's description is damaged ({error})") from error
    return config, split


def save_nets(path: Path, nets: EfficientAdNets) -> None:
    """Write the three networks and the teacher's normalization."""
    for name in NETS:
        save_tensors(path / f"{name}.safetensors", getattr(nets, name).state_dict(), {"net": name})
    stats = {"mean": nets.teacher_mean, "std": nets.teacher_std}
    save_tensors(path / NORMALIZATION, stats, {"net": "normalization"})


def finish(path: Path, nets: EfficientAdNets, calibration: Calibration) -> None:
    """Write the results; the calibration last, because it marks the run as finished."""
    save_nets(path, nets)
    write_atomically(path / CALIBRATION, encode_calibration(calibration))
    (path / CHECKPOINT).unlink(missing_ok=True)


def open_run(path: Path) -> Run:
    """Open a finished run.

    Raises:
        RunError: the folder is no run, is unfinished, or damaged.
    """
    config, split = read_config(path)
    if not (path / CALIBRATION).is_file():
        raise RunError(f"{path}: the training has not finished; go on with 'edge-ad train … --resume'")
    nets = build_nets(config)
    for name in NETS:
        file = path / f"{name}.safetensors"
        load_module(getattr(nets, name), load_tensors(file)[0], "", file)
    tensors, _ = load_tensors(path / NORMALIZATION)
    try:
        nets.teacher_mean.copy_(tensors["mean"])
        nets.teacher_std.copy_(tensors["std"])
    except (KeyError, RuntimeError) as error:
        raise RunError(f"{path / NORMALIZATION}: does not fit the run ({error})") from error
    calibration = decode_calibration((path / CALIBRATION).read_bytes(), str(path / CALIBRATION))
    return Run(path, config, split, nets.eval(), calibration)


class TorchEngine:
    """The float networks as an engine, on the device that they are on."""

    name = f"torch {torch.__version__}"

    def __init__(self, nets: EfficientAdNets) -> None:
        self._nets = nets.eval()

    def run(self, batch: Image) -> RawMaps:
        """Raw maps ``float32 hxw`` of one preprocessed image, ``uint8 1xHxWx3`` RGB."""
        tensor: Tensor = normalize(to_tensor(batch).to(self._nets.teacher_mean.device))
        with torch.inference_mode():
            st, ae = self._nets(tensor)
        return RawMaps(st[0].cpu().numpy(), ae[0].cpu().numpy())


class TorchScorer:
    """The float networks of a run as a scorer: raw maps of camera images."""

    def __init__(
        self, nets: EfficientAdNets, spec: PreprocessSpec, calibration: Calibration | None = None
    ) -> None:
        self._spec, self._calibration = spec, calibration
        self._engine = whole_image_engine(TorchEngine(nets), spec)

    @property
    def calibration(self) -> Calibration:
        """Quantiles and threshold.

        Raises:
            RunError: the networks have not been calibrated yet.
        """
        if self._calibration is None:
            raise RunError("these networks have no calibration yet")
        return self._calibration

    def raw_maps(self, image: Image) -> RawMaps:
        """Raw maps ``float32 hxw`` of a camera image, ``uint8 HxWx3`` RGB."""
        return self._engine.run(preprocess(image, self._spec))


def open_scorer(path: Path) -> TorchScorer:
    """The scorer of a finished run; see :func:`open_run` for errors."""
    run = open_run(path)
    return TorchScorer(run.nets, run.config.preprocess, run.calibration)
