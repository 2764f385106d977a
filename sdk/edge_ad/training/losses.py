"""The losses of Algorithm 1."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edge_ad.nets.model import EfficientAdNets


class Losses(NamedTuple):
    """``st`` moves the student, ``ae`` the autoencoder, ``stae`` the student; scalars."""

    st: Tensor
    ae: Tensor
    stae: Tensor

    @property
    def total(self) -> Tensor:
        return self.st + self.ae + self.stae


def hard_mean(squared: Tensor, quantile: float) -> Tensor:
    """The mean of the elements at or above their ``quantile``.

    The quantile at position ``q (n - 1)`` of the sorted elements is reached by the
    ``n - ceil(q (n - 1))`` largest ones, so no full sort is needed.
    """
    n = squared.numel()
    # Rounded first: 0.999 * 1000 must count as 999, not as 999.0000000000001.
    count = n - math.ceil(round(quantile * (n - 1), 6))
    return squared.flatten().topk(count, sorted=False).values.mean()


def step_losses(
    nets: EfficientAdNets,
    image: Tensor,
    augmented: Tensor,
    penalty: Tensor | None,
    hard_quantile: float,
) -> Losses:
    """The losses of one step; all images ``float32 Nx3xHxW``, ImageNet-normalized.

    The passes are joined: one batch through the shared trunk, one through the teacher's tail, one through
    the student. The autoencoder's output is detached in ``stae``, so that loss moves the student alone.
    """
    n = len(image)
    parts = [image, augmented] + ([] if penalty is None else [penalty])
    with torch.no_grad():
        trunk = nets.trunk(torch.cat(parts))
        teacher = nets.teacher_normalized(trunk[: 2 * n])
    student = nets.student_split(trunk)
    autoencoder = nets.autoencoder(augmented)
    first, second = slice(0, n), slice(n, 2 * n)
    st = hard_mean((teacher[first] - student.st[first]) ** 2, hard_quantile)
    if penalty is not None:
        st = st + (student.st[2 * n :] ** 2).mean()
    ae = ((teacher[second] - autoencoder) ** 2).mean()
    stae = ((autoencoder.detach() - student.ae[second]) ** 2).mean()
    return Losses(st, ae, stae)
