"""The losses of Algorithm 1."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_ad.nets.model import EfficientAdNets


class Losses(NamedTuple):
    """``hard``, ``penalty`` and ``stae`` move the student, ``ae`` the autoencoder; scalars."""

    hard: Tensor
    penalty: Tensor
    ae: Tensor
    stae: Tensor

    @property
    def total(self) -> Tensor:
        return self.hard + self.penalty + self.ae + self.stae


class Clean(NamedTuple):
    """What the frozen nets give for unaugmented images: ``trunk`` features, and ``teacher``'s normalized output."""

    trunk: Tensor
    teacher: Tensor


def hard_mean(squared: Tensor, quantile: float) -> Tensor:
    """The mean of the elements at or above their ``quantile``.

    The quantile at position ``q (n - 1)`` of the sorted elements is reached by the
    ``n - ceil(q (n - 1))`` largest ones, so no full sort is needed.
    """
    n = squared.numel()
    # Rounded first: 0.999 * 1000 must count as 999, not as 999.0000000000001.
    count = n - math.ceil(round(quantile * (n - 1), 6))
    return squared.flatten().topk(count, sorted=False).values.mean()


@torch.no_grad()
def clean_outputs(nets: EfficientAdNets, image: Tensor) -> Clean:
    """The frozen outputs for unaugmented images ``float32 Nx3xHxW``, ImageNet-normalized."""
    trunk = nets.trunk(image)
    return Clean(trunk, nets.teacher_normalized(trunk).float())


def step_losses(
    nets: EfficientAdNets,
    clean: Clean,
    augmented: Tensor,
    penalty: Tensor | None,
    hard_quantile: float,
) -> Losses:
    """The losses of one step; images ``float32 Nx3xHxW``, ImageNet-normalized.

    The passes are joined: one batch through the shared trunk, one through the student. Of the student's last
    layer each image computes only the half that its loss looks at. The autoencoder's output is detached in
    ``stae``, so that loss moves the student alone. Differences are taken in float32 whatever the precision
    of the convolutions.
    """
    n = len(augmented)
    with torch.no_grad():
        rest = nets.trunk(augmented if penalty is None else torch.cat((penalty, augmented)))
        teacher = nets.teacher_normalized(rest[-n:]).float()
    autoencoder = nets.autoencoder(augmented).float()
    st, ae = _student_halves(nets, torch.cat((clean.trunk, rest)), n)
    hard = hard_mean((clean.teacher - st[:n]) ** 2, hard_quantile)
    outside = (st[n:] ** 2).mean() if penalty is not None else torch.zeros_like(hard)
    return Losses(hard, outside, F.mse_loss(autoencoder, teacher), F.mse_loss(ae, autoencoder.detach()))


def _student_halves(nets: EfficientAdNets, trunk: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The student's imitation of the teacher for all but the last ``n`` images, that of the autoencoder for these."""
    student = nets.student
    layers = len(student.specs)
    hidden = student.span(trunk, 0, layers - 1)
    last = student.convs[layers - 1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    (w_st, w_ae), (b_st, b_ae) = last.weight.chunk(2), last.bias.chunk(2)
    return (
        F.conv2d(hidden[:-n], w_st, b_st, padding=last.padding).float(),
        F.conv2d(hidden[-n:], w_ae, b_ae, padding=last.padding).float(),
    )
