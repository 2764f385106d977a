"""The teacher in training: network, optimizer, precision, checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edge_ad.checkpoint import load_module, load_optimizer, load_tensors, optimizer_tensors, save_tensors
from edge_ad.distill.cache import ViewCache
from edge_ad.distill.config import DistillConfig
from edge_ad.distill.group import Group
from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import normalize, to_tensor
from edge_ad.nets.pdn import Pdn
from edge_ad_runtime.errors import RunError
from edge_ad_runtime.types import Image

_WARMUP = 0.05


class Trainer:
    """Takes gradient steps on the mean squared error between the teacher's outputs and its targets.

    Each process of the group has a replica, which sees its share of a batch; gradients are averaged over the
    group, so the step is that of one process with the whole batch.
    """

    def __init__(self, config: DistillConfig, device: str, group: Group) -> None:
        self._config, self._device, self._group = config, torch.device(device), group
        torch.manual_seed(config.seed)
        spec = architecture(config.size)
        self.net = Pdn(spec.pdn.layers(spec.teacher_channels), padded=True)
        for conv in self.net.convs.children():
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        self.net.to(self._device)
        self._model: nn.Module = DistributedDataParallel(self.net) if group.world > 1 else self.net
        self._optimizer = torch.optim.Adam(
            self.net.parameters(), lr=config.rate, weight_decay=config.weight_decay
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")
        self._average = torch.zeros((), dtype=torch.double, device=self._device)
        self.step = 0

    def backward(self, images: Image, targets: Tensor) -> Tensor:
        """This process's loss, and the whole batch's gradients in the parameters."""
        self._optimizer.zero_grad()
        loss = self._loss(self._model, images, targets)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        return loss.detach()

    def update(self, loss: Tensor) -> None:
        """Step with the gradients that :meth:`backward` left."""
        config = self._config
        factor = schedule(self.step / config.steps) if config.schedule == "cosine" else 1.0
        self._optimizer.param_groups[0]["lr"] = config.rate * factor
        if config.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._average = loss.double() if self.step == 0 else 0.98 * self._average + 0.02 * loss.double()
        self.step += 1

    def train_mse(self) -> float:
        """The running mean of the loss over the last 50 steps or so, in all processes; all must ask together."""
        shares = self._group.gather(float(self._average))
        self._average.fill_(sum(shares) / len(shares))
        return float(self._average)

    def validate(self, cache: ViewCache) -> float:
        """The mean squared error over a cache."""
        batches = np.array_split(np.arange(len(cache)), math.ceil(len(cache) / self._config.batch))
        with torch.inference_mode():
            losses = [float(self._loss(self.net, *cache.read(picks))) * len(picks) for picks in batches]
        return sum(losses) / len(cache)

    def save(self, path: Path) -> None:
        """Write the checkpoint, atomically."""
        state = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        meta = {"step": self.step, "average": float(self._average), "scaler": self._scaler.state_dict()}
        save_tensors(path, state | optimizer_tensors(self._optimizer), meta)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            RunError: it is damaged, or not one of this network.
        """
        tensors, meta = load_tensors(path)
        load_module(self.net, tensors, "net.", path)
        load_optimizer(self._optimizer, tensors)
        try:
            self.step = int(meta["step"])
            self._average.fill_(float(meta["average"]))
            if self._scaler.is_enabled():
                self._scaler.load_state_dict(meta["scaler"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{path}: is not a checkpoint of this distillation ({error})") from error

    def _loss(self, net: nn.Module, images: Image, targets: Tensor) -> Tensor:
        batch = normalize(to_tensor(images).to(self._device))
        precision = torch.float16 if self._config.precision == "fp16" else torch.bfloat16
        with torch.autocast(self._device.type, precision, enabled=self._config.precision != "fp32"):
            out: Tensor = net(batch.contiguous(memory_format=torch.channels_last))
        return F.mse_loss(out.float(), targets.to(self._device).float())


def schedule(progress: float) -> float:
    """The learning rate's share of its peak: 5 % warm-up, then a cosine to a hundredth."""
    if progress < _WARMUP:
        return max(progress / _WARMUP, 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))
