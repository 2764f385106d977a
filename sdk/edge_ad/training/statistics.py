"""Mean and deviation of the teacher's channels over the training images."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from edge_ad.nets.model import EfficientAdNets, normalize
from edge_ad.nets.pdn import Pdn
from edge_ad.training.feed import on_device
from edge_ad.training.images import ImageStore

_BATCH = 8
# A channel that does not vary would be divided by zero.
_MIN_STD = 1e-6


def fit_teacher_statistics(nets: EfficientAdNets, images: ImageStore) -> None:
    """Fill ``teacher_mean`` and ``teacher_std`` (arXiv 2303.14535, Algorithm 1, lines 2 to 9)."""
    mean, std = channel_statistics(nets.teacher, images)
    nets.teacher_mean.copy_(mean.view_as(nets.teacher_mean))
    nets.teacher_std.copy_(std.view_as(nets.teacher_std))


def channel_statistics(teacher: Pdn, images: ImageStore) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a teacher's channels, ``float64 C`` each, on the CPU.

    One pass; means and scatters of batches are merged without cancellation (Chan, Golub, LeVeque 1979).
    """
    device = next(teacher.parameters()).device
    count, mean, scatter = 0, torch.zeros(0), torch.zeros(0)
    for start in tqdm(range(0, len(images), _BATCH), desc="teacher statistics", leave=False):
        batch = images.batch(range(start, min(start + _BATCH, len(images))))
        with torch.inference_mode():
            raw = teacher(normalize(on_device(batch, device)))
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
    return mean, (scatter / count).sqrt().clamp_min(_MIN_STD)
