"""Which channels of a layer to keep."""

from __future__ import annotations

import torch
from torch import Tensor

# Variance left of a channel, as a share of its own, below which it is the others' combination.
_DEPENDENT = 1e-6


def readers_energy(weights: list[Tensor]) -> Tensor:
    """What the convolutions that read ``C`` channels make of them: the sum of ``W^T W`` over taps, ``float64 CxC``.

    ``weights`` are ``OxCxkxk`` each and already in units in which their outputs compare.
    """
    width = weights[0].shape[1]
    energy = torch.zeros(width, width, dtype=torch.double)
    for weight in weights:
        flat = weight.double().transpose(1, 2).flatten(0, 1).transpose(1, 2).reshape(-1, width)
        energy += flat.T @ flat
    return energy


def choose_channels(covariance: Tensor, energy: Tensor, count: int) -> Tensor:
    """The ``count`` channels from which the readers' outputs can best be computed, ``int64``, in rising order.

    Greedy: each time the channel is taken that, with those taken before, linearly explains the most of what the
    readers make of all channels. ``covariance`` and ``energy`` are ``float64 CxC``.
    """
    left = covariance.clone()
    variance = covariance.diagonal().clone()
    taken = torch.zeros(len(left), dtype=torch.bool)
    for _ in range(count):
        diagonal = left.diagonal()
        usable = ~taken & (diagonal > _DEPENDENT * variance.clamp(min=1e-30))
        if not bool(usable.any()):
            usable = ~taken
        gain = ((energy @ left) * left).sum(0) / diagonal.clamp(min=1e-30)
        best = int(torch.where(usable, gain, -torch.inf).argmax())
        taken[best] = True
        if float(diagonal[best]) > 0:
            left = left - torch.outer(left[:, best], left[best]) / diagonal[best]
    return taken.nonzero()[:, 0]


def reconstruction(covariance: Tensor, kept: Tensor) -> Tensor:
    """The matrix, ``float64 CxK``, that best gives all channels, about their means, from those ``kept``."""
    of_kept = covariance[kept][:, kept]
    ridge = _DEPENDENT * of_kept.diagonal().mean().clamp(min=1e-12)
    inverse: Tensor = torch.linalg.inv(of_kept + ridge * torch.eye(len(kept), dtype=torch.double))
    matrix: Tensor = covariance[:, kept] @ inverse
    return matrix
