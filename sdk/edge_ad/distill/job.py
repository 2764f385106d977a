"""The distillation job: projection, validation views, training, teacher file.

What lies in the folder: ``config.json``, ``projection.safetensors`` (until it is there,
``statistics.safetensors``), ``validation/`` and ``train/`` with the extracted views,
``checkpoint.safetensors``, ``metrics.jsonl`` and ``teacher.safetensors``. Each is written whole or not at all,
and the checkpoint last, so a process that is killed at any time leaves what the next one goes on from.
"""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from edge_ad.distill.batches import Batches, CachedBatches, OnlineBatches, drawing_threads
from edge_ad.distill.cache import ViewCache, extract
from edge_ad.distill.config import DistillConfig
from edge_ad.distill.extractors import Extractor, probe
from edge_ad.distill.group import Group
from edge_ad.distill.projection import Projection, channel_moments, make_projection
from edge_ad.distill.trainer import Trainer
from edge_ad.distill.views import ViewSet
from edge_ad.nets.architecture import architecture
from edge_ad.teacher import save_teacher
from edge_ad_runtime.errors import DataError, InputError, RunError
from edge_ad_runtime.files import make_folder, write_atomically
from edge_ad_runtime.images import is_image_path
from edge_ad_runtime.stopping import StopRequest

CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
TEACHER = "teacher.safetensors"
REPORT_EVERY = 250
CHECKPOINT_SECONDS = 60
# Enough to tell whether the teacher overfits; more would only cost time.
_MOST_VALIDATION_VIEWS = 1000


@dataclass(frozen=True)
class DistillResult:
    """``mse`` on held-out images, per output with the outputs' mean variance being 1; ``steps`` done."""

    teacher: Path
    mse: float
    steps: int


def distill(
    images: Path, extractor: Extractor, out: Path, config: DistillConfig, device: str, stop: StopRequest,
    group: Group | None = None,
) -> DistillResult | None:  # fmt: skip
    """Distil a teacher from ``extractor`` over a folder of images (read recursively).

    Work that is already in ``out`` with the same options is gone on with. Returns None when asked to stop
    before the end; calling again continues. In a ``group`` every process calls this with the same arguments
    but for the device, and ``out`` is a folder that all of them see.

    Raises:
        DataError: there are too few images.
        InputError: ``out`` holds a distillation with other options, or the options do not fit together, the
            extractor or the device.
        RunError: a file in ``out`` is damaged, or another process failed.
    """
    group = group or Group()
    _check(config, device, group)
    paths = group.from_first(lambda: _images(images))
    held = max(1, round(len(paths) * config.validation))
    if len(paths) - held < 2:
        raise DataError(f"{images}: {len(paths)} images are too few to distil from")
    layers = [str(layer) for layer in probe(extractor, 2 * config.view_size).layers]
    about = {"images": len(paths), "extractor": extractor.name, **extractor.record}
    _open_folder(out, {**asdict(config), **about}, group)
    shuffled = [paths[i] for i in np.random.default_rng(config.seed).permutation(len(paths))]
    size, seed, crop, grayscale = config.view_size, config.seed, config.crop, config.grayscale
    train = ViewSet(tuple(shuffled[held:]), size, seed, crop, grayscale, shuffled=config.online)
    val = ViewSet(tuple(shuffled[:held]), size, seed + 1, crop, grayscale)
    projection = _projection(extractor, train, config, out, group, stop)
    if projection is None:
        return None
    channels = architecture(config.size).teacher_channels
    count = min(_MOST_VALIDATION_VIEWS, max(held, round(config.views * config.validation)))
    val_cache = ViewCache(out / "validation", count, config.view_size, channels)
    if not extract(extractor, projection, val, val_cache, "validation", group, stop):
        return None
    provenance = {**asdict(config), **about, "layers": layers, **_about(projection)}
    with ExitStack() as stack:
        batches: Batches
        if config.online:
            pool = stack.enter_context(drawing_threads(config.batch // group.world))
            batches = OnlineBatches(extractor, projection, train, config.batch, group, pool)
        else:
            cache = ViewCache(out / "train", config.views, config.view_size, channels)
            if not extract(extractor, projection, train, cache, "features", group, stop):
                return None
            batches = CachedBatches(cache, config.batch, config.seed, group)
        return _train(
            Trainer(config, device, group), batches, val_cache, out, config, provenance, group, stop
        )


def _check(config: DistillConfig, device: str, group: Group) -> None:
    if config.batch % group.world:
        raise InputError(
            f"a batch of {config.batch} cannot be divided evenly among {group.world} processes; "
            f"choose a multiple of {group.world}"
        )
    if config.precision == "fp16" and not device.startswith("cuda"):
        raise InputError("training in fp16 needs a GPU; use bf16 or fp32 on the CPU")


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if is_image_path(p) and p.is_file())


def _open_folder(out: Path, options: dict[str, Any], group: Group) -> None:
    """Claim the folder for these options, and see that all processes have the same one."""
    written = group.from_first(lambda: _claim(out, options))
    error: Exception | None = None
    try:
        if (out / CONFIG).read_bytes() != written:
            raise InputError(f"{out}: is another folder here than in the first process; use shared storage")
    except OSError as caught:
        error = InputError(
            f"{out}: all processes must see this folder; use shared storage ({caught.strerror})"
        )
    except InputError as caught:
        error = caught
    group.agree(error=error)


def _claim(out: Path, options: dict[str, Any]) -> bytes:
    for folder in (out, out / "validation", out / "train"):
        make_folder(folder)
    file = out / CONFIG
    if file.exists():
        try:
            before = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise RunError(f"{file}: is damaged ({error}); choose another folder") from error
        # Before the first step only the options that shape the cached views count; more steps are always fine.
        free = {"steps", "teacher_precision"}
        if not (out / CHECKPOINT).exists():
            free |= {"batch", "rate", "schedule", "weight_decay", "clip"}
        changed = [k for k in sorted(options.keys() | before) if k not in free]
        changed = [k for k in changed if before.get(k) != options.get(k)]
        if changed:
            raise InputError(
                f"{out}: holds a distillation with other options ({', '.join(changed)}); choose another folder"
            )
    encoded = msgspec.json.format(msgspec.json.encode(options))
    write_atomically(file, encoded)
    return encoded


def _projection(
    extractor: Extractor, views: ViewSet, config: DistillConfig, out: Path, group: Group, stop: StopRequest
) -> Projection | None:
    path, state = out / "projection.safetensors", out / "statistics.safetensors"
    if not group.from_first(path.exists):
        sample = config.statistics if config.online else min(config.statistics, config.views)
        moments = channel_moments(extractor, views, sample, state, group, stop)
        if moments is None:
            return None
        channels = architecture(config.size).teacher_channels

        def write() -> None:
            write_atomically(path, make_projection(moments, channels, config.projection).to_bytes())
            state.unlink(missing_ok=True)

        group.from_first(write)
    return Projection.read(path)


def _about(projection: Projection) -> dict[str, Any]:
    return {
        "explained_variance_of_projection": projection.explained,
        "projection_sha256": hashlib.sha256(projection.matrix.numpy().tobytes()).hexdigest(),
    }


def _train(
    trainer: Trainer, batches: Batches, val: ViewCache, out: Path, config: DistillConfig,
    provenance: dict[str, Any], group: Group, stop: StopRequest,
) -> DistillResult | None:  # fmt: skip
    checkpoint, mse = out / CHECKPOINT, float("nan")
    if group.from_first(checkpoint.exists):
        trainer.load(checkpoint)
    if trainer.step > config.steps:
        raise InputError(f"{out}: has {trainer.step} steps already; give at least as many, or another folder")
    if group.first:
        _drop_metrics_after(out / METRICS, trainer.step)
    saved = time.monotonic()
    with tqdm(
        total=config.steps, initial=trainer.step, desc="distil", unit="step", disable=not group.first
    ) as bar:
        while trainer.step < config.steps:
            error: Exception | None = None
            try:
                images, targets = batches(trainer.step)
            except Exception as caught:  # noqa: BLE001 - every process must hear of it
                error = caught
            due = group.first and time.monotonic() - saved > CHECKPOINT_SECONDS
            stopping, saving = group.agree(stop.requested, due, error=error)
            if stopping or saving:
                trainer.train_mse()
                group.from_first(lambda: trainer.save(checkpoint))
                saved = time.monotonic()
            if stopping:
                return None
            trainer.update(trainer.backward(images, targets))
            bar.update()
            if trainer.step % REPORT_EVERY == 0 or trainer.step == config.steps:
                train_mse = trainer.train_mse()
                bar.set_postfix(mse=f"{train_mse:.4f}")
                mse = group.from_first(lambda: trainer.validate(val))
                line = {"step": trainer.step, "train_mse": train_mse, "val_mse": mse, "time": time.time()}
                about = {**provenance, "steps_done": trainer.step, "held_out_mse": mse}
                group.from_first(lambda: _report(trainer, out, config, line, about))  # noqa: B023
                saved = time.monotonic()
    if math.isnan(mse):
        # Nothing was left to do; the teacher's file may be wanted in another precision.
        mse = group.from_first(lambda: trainer.validate(val))
        about = {**provenance, "steps_done": trainer.step, "held_out_mse": mse}
        group.from_first(lambda: _write_teacher(trainer, out, config, about))
    return DistillResult(out / TEACHER, mse, trainer.step)


def _report(
    trainer: Trainer, out: Path, config: DistillConfig, line: dict[str, Any], provenance: dict[str, Any]
) -> None:
    with (out / METRICS).open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")
    _write_teacher(trainer, out, config, provenance)
    # Last: what a checkpoint counts as done is done.
    trainer.save(out / CHECKPOINT)


def _write_teacher(trainer: Trainer, out: Path, config: DistillConfig, provenance: dict[str, Any]) -> None:
    save_teacher(out / TEACHER, trainer.net, config.size, provenance, config.teacher_precision)


def _drop_metrics_after(path: Path, step: int) -> None:
    """Remove the lines of steps that a killed process did after its last checkpoint: they are done again."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    write_atomically(path, b"".join(line for line in lines if _metrics_step(line) <= step))


def _metrics_step(line: bytes) -> float:
    """The step of a line; infinite for one that was cut off when the process died."""
    try:
        return float(msgspec.json.decode(line)["step"]) if line.endswith(b"\n") else math.inf
    except (msgspec.DecodeError, KeyError, TypeError):
        return math.inf
