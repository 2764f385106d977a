"""The import: a foreign model becomes a run, calibrated on good images, or a teacher file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torch import Tensor
from tqdm import tqdm

from edge_ad.data import Dataset, content_hash, read_dataset
from edge_ad.importing import anomalib, nelson
from edge_ad.importing.archive import TorchFile, open_torch_file
from edge_ad.importing.layers import ForeignNets, shorten
from edge_ad.importing.pickled import mapping
from edge_ad.nets.architecture import Architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad.nets.pdn import Pdn
from edge_ad.run_folder import RunConfig, SplitRecord, TorchScorer, build_nets, finish, write_config
from edge_ad.teacher import save_teacher
from edge_ad.training.images import training_store
from edge_ad.training.statistics import fit_teacher_statistics
from edge_ad_calibration.fit import MIN_IMAGES, fit_calibration
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import DataError, InputError, RunError
from edge_ad_runtime.files import folder_written_atomically, make_folder
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import PreprocessSpec

TEACHER_SUFFIX = ".safetensors"
_IMAGE_SIZE = (256, 256)
_SAFE = 20
_NO_IMAGES = (
    "holds a whole model: give --images a folder of good images that it was not trained on. Quantiles and threshold "
    "are fitted on these: a threshold is not in the file, or holds for another score than ours"
)


@dataclass(frozen=True)
class ImportOptions:
    """What a file cannot say; see ``edge-ad import --help``. None takes what the file says, or the usual.

    Args:
        images: folder of good images that the nets were not trained on, for quantiles and threshold.
        trained_on: folder of the good images that they were trained on, for the teacher's mean and deviation
            where the file lacks these; they are kept out of every later fit.
        image_size: height and width of the nets' input.
        padding: whether the nets pad.
        seed: recorded in the run; the import itself draws nothing at random.
    """

    images: Path | None = None
    trained_on: Path | None = None
    image_size: tuple[int, int] | None = None
    padding: bool | None = None
    seed: int = 42


@dataclass(frozen=True)
class Imported:
    """What was written, of what size; ``calibration`` is None for a teacher; ``notes`` are for the user."""

    path: Path
    kind: str
    size: str
    channels: int
    calibration: Calibration | None
    notes: tuple[str, ...]


def import_model(source: Path, out: Path, options: ImportOptions) -> Imported:
    """Import a model. What it is, is recognized by its content; nothing in it is executed.

    - A folder with nelson1425's three nets, or an anomalib checkpoint: ``out`` becomes a run.
    - A teacher's state dict of either: ``out`` becomes a teacher file.

    Nothing is left at ``out`` when it fails.

    Raises:
        InputError: the source is damaged, is no EfficientAD model, or contradicts an option.
        DataError, ImageError, CalibrationError: the images do not do.
        RunError: ``out`` is there already.
    """
    if source.is_dir():
        return _import_run(nelson.read_folder(source), source, out, options)
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    with open_torch_file(source, str(source)) as file:
        names = mapping(file.root)
        if "state_dict" in names:
            return _import_run(anomalib.read_checkpoint(file), source, out, options)
        if nelson.is_sequential(file.root):
            raise InputError(
                f"{source}: is one of nelson1425's three nets; give the folder that holds {', '.join(nelson.FILES.values())}"
            )
        provenance = {"file": source.name, "sha256": _digest(source)}
        return import_teacher(file, out, provenance)


def import_teacher(file: TorchFile, out: Path, provenance: Mapping[str, Any]) -> Imported:
    """Write a teacher's state dict, anomalib's or nelson1425's, as a teacher file.

    Raises:
        InputError: the file holds no teacher, or ``out`` is not named like one.
        RunError: ``out`` is there already.
    """
    names = mapping(file.root)
    if "conv1.weight" in names:
        origin, (shape, weights) = anomalib.TEACHER, anomalib.read_teacher(file)
    elif "0.weight" in names:
        origin, (shape, weights) = nelson.TEACHER, nelson.read_teacher(file)
    else:
        raise InputError(f"{file.name}: is no EfficientAD model known here: it holds {shorten(names)}")
    if out.suffix != TEACHER_SUFFIX:
        raise InputError(f"{file.name}: holds a teacher; give -o a file name that ends with {TEACHER_SUFFIX}")
    if out.exists():
        raise RunError(f"{out}: is there already; choose another name or remove it")
    make_folder(out.parent)
    save_teacher(out, _teacher(shape, weights), shape.name, {"imported": origin, **provenance})
    return Imported(out, origin, shape.name, shape.teacher_channels, None, ())


def import_teacher_stream(source: IO[bytes], name: str, out: Path, provenance: Mapping[str, Any]) -> Imported:
    """:func:`import_teacher` from the content of a file, which ``name`` names in errors."""
    with open_torch_file(source, name) as file:
        return import_teacher(file, out, provenance)


def _teacher(shape: Architecture, weights: Mapping[str, Tensor]) -> Pdn:
    net = Pdn(shape.pdn.layers(shape.teacher_channels))
    net.load_state_dict(weights)
    return net


def _import_run(foreign: ForeignNets, source: Path, out: Path, options: ImportOptions) -> Imported:
    if options.images is None:
        raise InputError(f"{source}: {_NO_IMAGES}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(f"{out}: is there already; choose another folder or remove it")
    notes: list[str] = []
    (height, width), padded = _settle(foreign, source, options, notes)
    spec = PreprocessSpec(height=height, width=width)
    trained = _images(read_dataset(options.trained_on), {}) if options.trained_on else {}
    dataset = read_dataset(options.images)
    fit = _images(dataset, trained)
    if len(fit) < MIN_IMAGES:
        raise DataError(
            f"{options.images}: holds {len(fit)} good images that the nets were not trained on; "
            f"quantiles and threshold need at least {MIN_IMAGES}, and {_SAFE} or more are safer"
        )
    if len(fit) < _SAFE:
        notes.append(
            f"{len(fit)} images are few to fit on: the threshold is a rough one; {_SAFE} or more are safer"
        )
    if dataset.layout != "folder" and not dataset.validation:
        notes.append(
            f"the images of {options.images} are those for training: if the nets were trained on them, quantiles and "
            "threshold are too low"
        )
    config = _config(foreign, source, spec, padded, options)
    nets = build_nets(config)
    for name, weights in foreign.nets.items():
        getattr(nets, name).load_state_dict(weights)
    if foreign.teacher_mean is not None and foreign.teacher_std is not None:
        nets.teacher_mean.copy_(foreign.teacher_mean)
        nets.teacher_std.copy_(foreign.teacher_std)
    else:
        fit_teacher_statistics(nets, training_store(list((trained or fit).values()), spec))
        notes.append(
            f"the teacher's mean and deviation are not in the file; they were computed from {options.trained_on}"
            if trained
            else f"the teacher's mean and deviation are not in the file; they were computed from {options.images}. "
            "Give --trained-on the images of the training for closer ones"
        )
    calibration = _calibrate(nets, spec, list(fit.values()))
    split = SplitRecord(
        {str(path.resolve()): digest for digest, path in trained.items()},
        {str(path.relative_to(options.images)): digest for digest, path in fit.items()},
    )
    with folder_written_atomically(out) as part:
        write_config(part, config, split)
        finish(part, nets, calibration)
    shape = foreign.architecture
    return Imported(out, foreign.origin, shape.name, shape.teacher_channels, calibration, tuple(notes))


def _settle(
    foreign: ForeignNets, source: Path, options: ImportOptions, notes: list[str]
) -> tuple[tuple[int, int], bool]:
    """Image size and padding: what the file says, else the option, else the usual, of which a note tells."""
    size, padded = foreign.image_size or options.image_size, foreign.padded
    if options.image_size not in (None, size):
        assert size is not None
        raise InputError(
            f"{source}: was made for images of {size[1]}x{size[0]} px, so --image-size must be that or left out"
        )
    if size is None:
        size = _IMAGE_SIZE
        notes.append(f"the image size is not in the file; {size[1]}x{size[0]} is assumed (--image-size)")
    if None not in (padded, options.padding) and padded != options.padding:
        raise InputError(
            f"{source}: its nets {'pad' if padded else 'do not pad'}; leave --padding/--no-padding out"
        )
    if padded is None:
        padded = options.padding
    if padded is None:
        padded = False
        notes.append("padding is not in the file; nets without it are assumed (--padding)")
    return size, padded


def _images(dataset: Dataset, without: Mapping[str, Path]) -> dict[str, Path]:
    """Good images by content, but for test images and those of ``without``; held-out ones where there are some."""
    tested = {content_hash(image.path) for image in dataset.test}
    images = {content_hash(p): p for p in dataset.validation or dataset.good}
    return {h: p for h, p in images.items() if h not in without and h not in tested}


def _config(
    foreign: ForeignNets, source: Path, spec: PreprocessSpec, padded: bool, options: ImportOptions
) -> RunConfig:
    assert options.images is not None
    shape = foreign.architecture
    # No step was made here, so the training's options say nothing.
    return RunConfig(
        size=shape.name,
        data=str(options.images.resolve()),
        teacher="imported",
        teacher_sha256=_digest(source / nelson.FILES["teacher"] if source.is_dir() else source),
        preprocess=spec,
        padded=padded,
        teacher_channels=shape.teacher_channels,
        steps=0,
        batch=1,
        rate=0.0,
        weight_decay=0.0,
        decay_at=1.0,
        hard_quantile="0.999",
        validation=0.5,
        group=None,
        penalty=None,
        seed=options.seed,
        origin=f"imported: {foreign.origin} {source.name}",
    )


def _calibrate(nets: EfficientAdNets, spec: PreprocessSpec, images: Sequence[Path]) -> Calibration:
    scorer = TorchScorer(nets, spec)
    maps = [scorer.raw_maps(read_image(p)) for p in tqdm(images, desc="calibrate", leave=False)]
    return fit_calibration(maps, bundle="", source="good images given at the import")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
