"""Means and second moments of channels, gathered image by image."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Weighted second moments of ``C`` channels, and their mean."""

    def __init__(self, channels: int) -> None:
        self._sum = torch.zeros(channels, dtype=torch.double)
        self._outer = torch.zeros(channels, channels, dtype=torch.double)
        self._weight = 0.0

    def add(self, samples: Tensor, weight: Tensor | None = None) -> None:
        """Take ``float32 PxC`` samples into account, each as often as its ``weight`` (``float32 P``) says."""
        weighted = samples if weight is None else samples * weight[:, None]
        self._sum += weighted.sum(0, dtype=torch.double)
        self._outer += (weighted.T @ samples).double()
        self._weight += float(len(samples) if weight is None else weight.sum(dtype=torch.double))

    @property
    def mean(self) -> Tensor:
        """``float64 C``."""
        return self._sum / self._weight

    @property
    def second(self) -> Tensor:
        """``float64 CxC``, about zero."""
        return self._outer / self._weight

    @property
    def covariance(self) -> Tensor:
        """``float64 CxC``, about the mean."""
        return self.second - torch.outer(self.mean, self.mean)


def principal(second: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal directions as rows, ``float64 CxC``, of falling energy, and each one's share of the whole."""
    energy, vectors = torch.linalg.eigh(second)
    energy = energy.flip(0).clamp(min=0)
    return vectors.flip(1).T.contiguous(), energy / energy.sum().clamp(min=1e-30)
