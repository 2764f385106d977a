"""The training job: data, teacher statistics, the loop, quantiles, and going on after an interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from edge_ad.checkpoint import load_module, load_optimizer, load_tensors, optimizer_tensors, save_tensors
from edge_ad.data import Dataset, content_hash, split_good
from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad.run_folder import (
    CALIBRATION,
    CHECKPOINT,
    CONFIG,
    RunConfig,
    SplitRecord,
    TorchScorer,
    build_nets,
    finish,
    read_config,
    write_config,
)
from edge_ad.teacher import load_teacher
from edge_ad.training.augment import jitter, penalty_image, random_grey
from edge_ad.training.images import ImageStore, training_store
from edge_ad.training.losses import Losses, step_losses
from edge_ad_calibration.fit import fit_calibration
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import DataError, RunError
from edge_ad_runtime.images import is_image_path, read_image
from edge_ad_runtime.stopping import StopRequest

REPORT_EVERY = 100
CHECKPOINT_SECONDS = 60
_STATISTICS_BATCH = 8


@dataclass(frozen=True)
class TrainResult:
    """A finished training: its calibration on the validation images, and the time it took."""

    calibration: Calibration
    steps: int
    seconds: float


def train(
    out: Path,
    config: RunConfig,
    dataset: Dataset,
    teacher: Path,
    device: str,
    stop: StopRequest,
    resume: bool,
) -> TrainResult | None:
    """Train a run (arXiv 2303.14535, Algorithm 1) and write it to ``out``.

    Every random choice of step k depends on the seed and k alone, so a resumed run does the same steps as
    an uninterrupted one. Returns None when asked to stop before the end; ``resume`` goes on from there.

    Raises:
        DataError, ImageError: the images do not do.
        RunError: ``out`` holds another run, or the teacher does not fit.
    """
    start = time.monotonic()
    split = split_good(dataset, config.validation, config.seed, config.group)
    record = SplitRecord(_hashes(split.train, dataset), _hashes(split.validation, dataset))
    _check_folder(out, config, record, resume)
    torch.manual_seed(config.seed)
    nets = build_nets(config)
    _load_teacher(nets, teacher, config.size)
    images, validation = (training_store(p, config.preprocess) for p in (split.train, split.validation))
    _decode_all((images, validation))
    penalty = _penalty_store(config)
    if not resume:
        write_config(out, config, record)
    nets.to(device)
    trainable = [*nets.student.parameters(), *nets.autoencoder.parameters()]
    optimizer = torch.optim.Adam(trainable, lr=config.rate, weight_decay=config.weight_decay)
    step = 0
    if (out / CHECKPOINT).exists():
        step = _load_checkpoint(out / CHECKPOINT, nets, optimizer)
    else:
        _teacher_statistics(nets, images)
    if not _loop(out, config, nets, optimizer, images, penalty, step, stop):
        return None
    # The calibration may yet be refused, for a validation image that has gone, say: keep the steps.
    _save_checkpoint(out / CHECKPOINT, nets, optimizer, config.steps)
    nets.eval()
    scorer = TorchScorer(nets, config.preprocess)
    maps = [scorer.raw_maps(read_image(p)) for p in split.validation]
    calibration = fit_calibration(maps, bundle="", source="validation images of the training")
    finish(out, nets, calibration)
    return TrainResult(calibration, config.steps, time.monotonic() - start)


def _hashes(paths: Sequence[Path], dataset: Dataset) -> dict[str, str]:
    return {str(p.relative_to(dataset.root)): content_hash(p) for p in paths}


def _check_folder(out: Path, config: RunConfig, record: SplitRecord, resume: bool) -> None:
    """Check that ``out`` holds no run yet, or the one to go on with."""
    if not resume:
        if (out / CONFIG).exists():
            done = (out / CALIBRATION).exists()
            hint = "choose another folder or remove it" + ("" if done else ", or go on with --resume")
            raise RunError(f"{out}: holds a {'finished' if done else 'started'} run; {hint}")
        return
    before, before_record = read_config(out)
    if (out / CALIBRATION).exists():
        raise RunError(f"{out}: this run is finished; there is nothing to resume")
    if before != config:
        names = [f for f in RunConfig.__struct_fields__ if getattr(before, f) != getattr(config, f)]
        raise RunError(
            f"{out}: the run was started with other options ({', '.join(names)}); use the same ones"
        )
    if before_record != record:
        raise RunError(f"{out}: the images in {config.data} have changed since the run was started")


def _decode_all(stores: Sequence[ImageStore]) -> None:
    """Decode every image before the first step, so that a broken one is named at once."""
    with tqdm(total=sum(map(len, stores)), desc="images", unit="image", leave=False) as progress:
        for store in stores:
            for i in range(len(store)):
                store[i]
                progress.update()


def _penalty_store(config: RunConfig) -> ImageStore | None:
    if config.penalty is None:
        return None
    folder = Path(config.penalty)
    paths = (
        sorted(p for p in folder.rglob("*") if p.is_file() and is_image_path(p)) if folder.is_dir() else []
    )
    if not paths:
        raise DataError(f"{folder}: holds no penalty images")
    height, width = config.preprocess.height, config.preprocess.width
    return ImageStore(paths, height * width * 3, lambda p: penalty_image(read_image(p), height, width))


def _load_teacher(nets: EfficientAdNets, path: Path, size: str) -> None:
    teacher, teacher_size, _ = load_teacher(path)
    if teacher_size != size or teacher.out_channels != nets.teacher.out_channels:
        raise RunError(
            f"{path}: is a teacher of size '{teacher_size}' with {teacher.out_channels} channels; "
            f"size '{size}' needs {nets.teacher.out_channels}"
        )
    nets.teacher.load_state_dict(teacher.state_dict())


def _teacher_statistics(nets: EfficientAdNets, images: ImageStore) -> None:
    """Mean and deviation of each teacher channel over the training images (Algorithm 1, lines 2 to 9)."""
    count, mean, scatter = 0, torch.zeros(0), torch.zeros(0)
    for start in tqdm(range(0, len(images), _STATISTICS_BATCH), desc="teacher statistics", leave=False):
        batch = images.batch(range(start, min(start + _STATISTICS_BATCH, len(images))))
        with torch.inference_mode():
            raw = nets.teacher_raw(nets.trunk(normalize(_device_tensor(batch, nets))))
        values = raw.double().cpu().permute(1, 0, 2, 3).flatten(1)
        new, new_mean = values.shape[1], values.mean(1)
        new_scatter = ((values - new_mean[:, None]) ** 2).sum(1)
        if count:
            shift = new_mean - mean
            scatter = scatter + new_scatter + shift**2 * (count * new / (count + new))
            mean = mean + shift * (new / (count + new))
        else:
            mean, scatter = new_mean, new_scatter
        count += new
    std = (scatter / count).sqrt().clamp_min(1e-6)
    nets.teacher_mean.copy_(mean.view_as(nets.teacher_mean))
    nets.teacher_std.copy_(std.view_as(nets.teacher_std))


def _device_tensor(images: np.ndarray, nets: EfficientAdNets) -> Tensor:
    tensor = to_tensor(images).to(nets.teacher_mean.device)
    return tensor.contiguous(memory_format=torch.channels_last)


def _loop(
    out: Path,
    config: RunConfig,
    nets: EfficientAdNets,
    optimizer: torch.optim.Optimizer,
    images: ImageStore,
    penalty: ImageStore | None,
    step: int,
    stop: StopRequest,
) -> bool:
    """Run the steps; returns False when stopped early, with a checkpoint written."""
    nets.train()
    window: list[Losses] = []
    window_start = last_save = time.monotonic()
    with tqdm(total=config.steps, initial=step, desc="train", unit="step") as progress:
        while step < config.steps:
            if stop.requested:
                _save_checkpoint(out / CHECKPOINT, nets, optimizer, step)
                return False
            optimizer.param_groups[0]["lr"] = _rate(config, step)
            losses = _step(config, nets, images, penalty, step)
            optimizer.zero_grad()
            torch.autograd.backward(losses.total)
            optimizer.step()
            step += 1
            window.append(Losses(*(x.detach() for x in losses)))
            progress.update()
            if step % REPORT_EVERY == 0 or step == config.steps:
                now = time.monotonic()
                means = {
                    k: float(torch.stack([getattr(w, k) for w in window]).mean()) for k in Losses._fields
                }
                _check_finite(means, step)
                progress.set_postfix({k: f"{v:.3f}" for k, v in means.items()})
                rate = len(window) * config.batch / (now - window_start)
                _append_metrics(
                    out, {"step": step, **means, "rate": _rate(config, step - 1), "images_per_s": rate}
                )
                window, window_start = [], now
                if now - last_save > CHECKPOINT_SECONDS:
                    _save_checkpoint(out / CHECKPOINT, nets, optimizer, step)
                    last_save = now
    return True


def _rate(config: RunConfig, step: int) -> float:
    return config.rate * (0.1 if step >= config.decay_at * config.steps else 1.0)


def _step(
    config: RunConfig, nets: EfficientAdNets, images: ImageStore, penalty: ImageStore | None, step: int
) -> Losses:
    rng = np.random.default_rng((config.seed, step))
    # The dropout of the autoencoder draws from torch's generator.
    torch.manual_seed(int(rng.integers(2**31)))
    picks = _picks(len(images), config.batch, config.seed, step)
    image = _device_tensor(images.batch(picks), nets)
    augmented = jitter(image, rng)
    other = None
    if penalty is not None:
        pixels = penalty.batch(rng.integers(len(penalty), size=config.batch).tolist())
        other = normalize(random_grey(_device_tensor(pixels, nets), rng))
    return step_losses(nets, normalize(image), normalize(augmented), other, config.hard_quantile)


def _picks(count: int, batch: int, seed: int, step: int) -> list[int]:
    """The images of a step: every image once in each pass, each pass in an order of its own."""
    picks = []
    for position in range(step * batch, (step + 1) * batch):
        order = np.random.default_rng((seed, 1, position // count)).permutation(count)
        picks.append(int(order[position % count]))
    return picks


def _check_finite(means: dict[str, float], step: int) -> None:
    if not all(map(math.isfinite, means.values())):
        raise RunError(f"the loss is no longer finite at step {step} ({means}); lower the learning rate")


def _append_metrics(out: Path, line: dict[str, float]) -> None:
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")


def _save_checkpoint(path: Path, nets: EfficientAdNets, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {f"nets.{k}": v for k, v in nets.state_dict().items()}
    save_tensors(path, state | optimizer_tensors(optimizer), {"step": step})


def _load_checkpoint(path: Path, nets: EfficientAdNets, optimizer: torch.optim.Optimizer) -> int:
    tensors, meta = load_tensors(path)
    load_module(nets, tensors, "nets.", path)
    load_optimizer(optimizer, tensors)
    return int(meta["step"])


def steps_of_epochs(epochs: int, images: int, batch: int) -> int:
    """How many steps show every image ``epochs`` times."""
    return math.ceil(epochs * images / batch)
