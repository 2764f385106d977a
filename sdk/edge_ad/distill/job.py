"""The distillation job: views, projection, targets, training, teacher file."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from edge_ad.checkpoint import load_module, load_optimizer, load_tensors, optimizer_tensors, save_tensors
from edge_ad.distill.extractors import Extractor
from edge_ad.distill.views import Projection, ViewCache, ViewSet, extract, fit_projection
from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import normalize, to_tensor
from edge_ad.nets.pdn import Pdn
from edge_ad.teacher import save_teacher
from edge_ad_runtime.errors import DataError, InputError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.images import is_image_path
from edge_ad_runtime.stopping import StopRequest

_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class DistillConfig:
    """Options of a distillation.

    ``views`` random crops are extracted once; ``validation`` is the share of the images whose views are
    only measured, never trained on. ``rate`` is Adam's peak learning rate: 5 % warm-up, then a cosine
    to a hundredth. ``bf16`` runs the convolutions in bfloat16.
    """

    size: str = "n"
    views: int = 3200
    view_size: int = 256
    projection: str = "pca"
    steps: int = 6500
    batch: int = 8
    rate: float = 3e-3
    weight_decay: float = 1e-5
    validation: float = 0.02
    bf16: bool = True
    seed: int = 42

    def __post_init__(self) -> None:
        if self.projection not in ("pca", "pool"):
            raise InputError(f"projection '{self.projection}' is unknown: pca or pool")
        if min(self.views, self.steps, self.batch) < 1:
            raise InputError("views, steps and batch must be at least 1")
        if self.view_size % 16:
            raise InputError(f"the view size {self.view_size} must be a multiple of 16")


@dataclass(frozen=True)
class DistillResult:
    """``mse`` on held-out images, per output with the outputs' mean variance being 1; ``steps`` done."""

    teacher: Path
    mse: float
    steps: int


def distill(
    images: Path, extractor: Extractor, out: Path, config: DistillConfig, device: str, stop: StopRequest
) -> DistillResult | None:
    """Distil a teacher from ``extractor`` over a folder of images (read recursively).

    Work that is already in ``out`` with the same options is gone on with. Returns None when asked to stop
    before the end; calling again continues.

    Raises:
        DataError: there are too few images.
        InputError: ``out`` holds a distillation with other options.
    """
    paths = tuple(sorted(p for p in images.rglob("*") if p.is_file() and is_image_path(p)))
    held = max(1, round(len(paths) * config.validation))
    if len(paths) - held < 2:
        raise DataError(f"{images}: {len(paths)} images are too few to distil from")
    shuffled = [paths[i] for i in np.random.default_rng(config.seed).permutation(len(paths))]
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, {**asdict(config), "images": len(paths), "extractor": extractor.name})
    train = ViewSet(tuple(shuffled[held:]), config.views, config.view_size, config.seed)
    val_count = max(held, round(config.views * config.validation))
    val = ViewSet(tuple(shuffled[:held]), val_count, config.view_size, config.seed + 1)
    projection = _projection(extractor, train, config, out / "projection.safetensors")
    caches: list[ViewCache] = []
    for name, views in (("validation", val), ("train", train)):
        (out / name).mkdir(exist_ok=True)
        cache = extract(extractor, projection, views, out / name, stop)
        if cache is None:
            return None
        caches.append(cache)
    return _train(caches[1], caches[0], projection, out, config, device, extractor.name, len(paths), stop)


def _claim(out: Path, options: dict[str, Any]) -> None:
    file = out / "config.json"
    if file.exists():
        before = msgspec.json.decode(file.read_bytes())
        # Before the first step only the options that shape the cached views count; more steps are always fine.
        free = (
            {"steps"} if (out / _CHECKPOINT).exists() else {"steps", "batch", "rate", "weight_decay", "bf16"}
        )
        changed = [k for k in options if k not in free and before.get(k) != options[k]]
        if changed:
            raise InputError(
                f"{out}: holds a distillation with other options ({', '.join(changed)}); choose another folder"
            )
    write_atomically(file, msgspec.json.format(msgspec.json.encode(options)))


def _projection(extractor: Extractor, views: ViewSet, config: DistillConfig, path: Path) -> Projection:
    if not path.exists():
        channels = architecture(config.size).teacher_channels
        fitted = fit_projection(extractor, views, channels, config.projection, min(256, views.count))
        tensors = {"mean": fitted.mean, "matrix": fitted.matrix, "explained": torch.tensor(fitted.explained)}
        write_atomically(path, save({k: v.contiguous() for k, v in tensors.items()}))
    read = load_file(str(path))
    return Projection(read["mean"], read["matrix"], float(read["explained"]))


def _train(
    train: ViewCache, val: ViewCache, projection: Projection, out: Path, config: DistillConfig, device: str,
    extractor: str, images: int, stop: StopRequest,
) -> DistillResult | None:  # fmt: skip
    torch.manual_seed(config.seed)
    spec = architecture(config.size)
    net = Pdn(spec.pdn.layers(spec.teacher_channels), padded=True).to(device)
    for conv in net.convs.children():
        assert isinstance(conv, torch.nn.Conv2d) and conv.bias is not None
        torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        torch.nn.init.zeros_(conv.bias)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    checkpoint, step = out / _CHECKPOINT, 0
    if checkpoint.exists():
        tensors, meta = load_tensors(checkpoint)
        load_module(net, tensors, "net.", checkpoint)
        load_optimizer(optimizer, tensors)
        step = int(meta["step"])

    def save() -> None:
        state = {f"net.{k}": v for k, v in net.state_dict().items()}
        save_tensors(checkpoint, state | optimizer_tensors(optimizer), {"step": step})

    average: float | None = None
    with tqdm(total=config.steps, initial=step, desc="distil", unit="step") as progress:
        while step < config.steps:
            if stop.requested:
                save()
                return None
            picks = np.sort(
                np.random.default_rng((config.seed, step)).integers(0, len(train.images), config.batch)
            )
            optimizer.param_groups[0]["lr"] = config.rate * _schedule(step / config.steps)
            loss = _loss(net, train, picks, config.bf16, device)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            step += 1
            average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
            progress.update()
            progress.set_postfix(mse=f"{average:.4f}")
            if step % 250 == 0 or step == config.steps:
                save()
                mse = _validate(net, val, config, device)
                line = {"step": step, "train_mse": average, "val_mse": mse, "time": time.time()}
                with (out / "metrics.jsonl").open("ab") as file:
                    file.write(msgspec.json.encode(line) + b"\n")
                _write(net, out, config, projection, mse, step, extractor, images)
    return DistillResult(out / "teacher.safetensors", _validate(net, val, config, device), step)


def _write(
    net: Pdn, out: Path, config: DistillConfig, projection: Projection, mse: float, step: int, extractor: str,
    images: int,
) -> None:  # fmt: skip
    provenance = {
        **asdict(config),
        "steps_done": step,
        "extractor": extractor,
        "images": images,
        "explained_variance_of_projection": projection.explained,
        "held_out_mse": mse,
        "projection_sha256": hashlib.sha256(projection.matrix.numpy().tobytes()).hexdigest(),
    }
    save_teacher(out / "teacher.safetensors", net, config.size, provenance)


def _schedule(progress: float) -> float:
    warmup = 0.05
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _loss(net: Pdn, cache: ViewCache, picks: np.ndarray, bf16: bool, device: str) -> Tensor:
    images = normalize(to_tensor(cache.images[picks]).to(device))
    target = torch.from_numpy(cache.targets[picks]).to(device).float()
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
        out = net(images.contiguous(memory_format=torch.channels_last))
    return F.mse_loss(out.float(), target)


def _validate(net: Pdn, cache: ViewCache, config: DistillConfig, device: str) -> float:
    picks = np.array_split(np.arange(len(cache.images)), math.ceil(len(cache.images) / config.batch))
    with torch.inference_mode():
        losses = [_loss(net, cache, p, config.bf16, device).item() * len(p) for p in picks]
    return sum(losses) / len(cache.images)
