"""Weights of a convolution by least squares, so that it gives given outputs from given inputs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edge_ad_converters.description import ConvLayer

# Relative to the inputs' mean variance: what a step away from the first guess has to pay for.
_RIDGE = 1e-3
# Samples whose products are summed in float32 before they are added to the sums in float64.
_ROWS = 2000


class LeastSquares:
    """Gathers samples of inputs and outputs and solves for the affine map between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.double)
        self._cross = torch.zeros(inputs + 1, outputs, dtype=torch.double)
        self._shift: tuple[Tensor, Tensor] | None = None
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, inputs: Tensor, outputs: Tensor, weight: Tensor | None = None) -> None:
        """Samples ``float32 PxI`` and ``PxO``, with a weight each (``float32 P``)."""
        # Products of what varies alone: float32 would lose it beside a large mean.
        if self._shift is None:
            self._shift = inputs.mean(0), outputs.mean(0)
        x = torch.cat((inputs - self._shift[0], torch.ones(len(inputs), 1)), 1)
        weighted = x if weight is None else x * weight[:, None]
        self._waiting.append((x, weighted, outputs - self._shift[1]))
        if sum(len(w[0]) for w in self._waiting) >= _ROWS:
            self._gather()

    def _gather(self) -> None:
        """Many samples at once: the sums are as large as the matrices, and adding to them costs as much."""
        if self._waiting:
            x, weighted, outputs = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
            self._gram += weighted.T @ x
            self._cross += weighted.T @ outputs
            self._waiting.clear()

    def solve(self, guess: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weight ``float32 OxI`` and bias ``float32 O``.

        Where the samples do not tell, the weight stays at the ``guess`` (``OxI``; None: zeros).
        """
        assert self._shift is not None
        self._gather()
        inputs = len(self._gram) - 1
        count = self._gram[inputs, inputs]
        means, out_means = self._gram[inputs, :inputs] / count, self._cross[inputs] / count
        gram = self._gram[:inputs, :inputs] / count - torch.outer(means, means)
        cross = self._cross[:inputs] / count - torch.outer(means, out_means)
        first = torch.zeros_like(cross) if guess is None else guess.double().T
        ridge = _RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        while True:
            factor, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(inputs, dtype=torch.double))
            if not int(failed):
                break
            ridge = ridge * 10
        weight = (first + torch.cholesky_solve(cross - gram @ first, factor)).T
        in_means, out_means = means + self._shift[0], out_means + self._shift[1]
        return weight.float().contiguous(), (out_means - weight @ in_means).float()


def with_weights(layer: ConvLayer, flat: Tensor, bias: Tensor) -> ConvLayer:
    """The layer with flattened weights ``O x (C k k)``."""
    kernel = layer.weight.shape[-1]
    return replace(layer, weight=flat.reshape(len(bias), -1, kernel, kernel).contiguous(), bias=bias)


def rewritten(weight: Tensor, matrix: Tensor) -> Tensor:
    """Weights ``OxCxkxk`` for channels that ``matrix`` (``float64 CxK``) makes of ``K`` others: ``OxKxkxk``."""
    return torch.einsum("ocij,ck->okij", weight, matrix.float())
