"""A run: the folder that training fills and that evaluation and conversion read.

``config.json``             :class:`RunConfig`
``split.json``              which image, by content, was trained on, and which validated
``teacher.safetensors``     the three networks
``student.safetensors``
``autoencoder.safetensors``
``normalization.safetensors``  the teacher's channel mean and deviation
``calibration.json``        quantiles and threshold of the float nets; written last: a run without it is unfinished
``metrics.jsonl``           one line for each report of the training
``checkpoint.safetensors``  what resuming needs; gone when the training is done
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from torch import Tensor

from edge_ad.checkpoint import load_module, load_tensors, save_tensors
from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad_runtime.calibration import Calibration, decode_calibration, encode_calibration
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import RunError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.types import Image

CONFIG, SPLIT, CALIBRATION, CHECKPOINT = (
    "config.json",
    "split.json",
    "calibration.json",
    "checkpoint.safetensors",
)
NETS = ("teacher", "student", "autoencoder")
NORMALIZATION = "normalization.safetensors"
FORMAT_VERSION = 1


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that shapes a run; ``data`` is the data set's folder as it was given.

    ``penalty`` is the folder of the penalty images, if any; ``hard_quantile`` the share of the squared
    differences below the hard-feature loss; ``decay_at`` the fraction of the steps after which the
    learning rate falls to a tenth; ``teacher`` describes the teacher's file.
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
    hard_quantile: float
    validation: float
    group: str | None
    penalty: str | None
    seed: int
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise RunError("steps and batch must be at least 1")
        if not 0 < self.hard_quantile < 1:
            raise RunError(f"the hard-feature quantile {self.hard_quantile} must lie between 0 and 1")
        if not 0 < self.validation < 1:
            raise RunError(f"the validation share {self.validation} must lie between 0 and 1")


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
    spec = config.preprocess
    return EfficientAdNets(architecture(config.size), (spec.height, spec.width))


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
        config = msgspec.json.decode((path / CONFIG).read_bytes(), type=RunConfig)
        split = msgspec.json.decode((path / SPLIT).read_bytes(), type=SplitRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: the run's description is damaged ({error})") from error
    if config.format_version != FORMAT_VERSION:
        raise RunError(
            f"{path}: run format {config.format_version} is not known here (this is {FORMAT_VERSION})"
        )
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


class TorchScorer:
    """The float networks of a run as a scorer: raw maps of camera images."""

    def __init__(
        self, nets: EfficientAdNets, spec: PreprocessSpec, calibration: Calibration | None = None
    ) -> None:
        self._nets, self._spec, self._calibration = nets.eval(), spec, calibration
        self._device = nets.teacher_mean.device

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
        batch: Tensor = normalize(to_tensor(preprocess(image, self._spec)).to(self._device))
        with torch.inference_mode():
            st, ae = self._nets(batch)
        return RawMaps(st[0].cpu().numpy(), ae[0].cpu().numpy())


def open_scorer(path: Path) -> TorchScorer:
    """The scorer of a finished run; see :func:`open_run` for errors."""
    run = open_run(path)
    return TorchScorer(run.nets, run.config.preprocess, run.calibration)
