"""Weights of a convolution by least squares, so that it gives given outputs from given inputs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edge_ad_converters.description import ConvLayer

# Relative to the inputs' mean energy: what a solution may not grow beyond for nothing.
_RIDGE = 1e-4


class LeastSquares:
    """Gathers samples of inputs and outputs and solves for the affine map between them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.double)
        self._cross = torch.zeros(inputs + 1, outputs, dtype=torch.double)

    def add(self, inputs: Tensor, outputs: Tensor, weight: Tensor | None = None) -> None:
        """Samples ``float32 PxI`` and ``PxO``, with a weight each (``float32 P``)."""
        x = torch.cat((inputs, torch.ones(len(inputs), 1)), 1)
        weighted = x if weight is None else x * weight[:, None]
        self._gram += (weighted.T @ x).double()
        self._cross += (weighted.T @ outputs).double()

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weight ``float32 OxI`` and bias ``float32 O``."""
        inputs = len(self._gram) - 1
        ridge = _RIDGE * self._gram.diagonal()[:inputs].mean()
        gram = self._gram.clone()
        gram.diagonal()[:inputs] += ridge
        solution = torch.cholesky_solve(self._cross, torch.linalg.cholesky(gram))
        return solution[:inputs].T.float().contiguous(), solution[inputs].float().contiguous()


def with_weights(layer: ConvLayer, flat: Tensor, bias: Tensor) -> ConvLayer:
    """The layer with flattened weights ``O x (C k k)``."""
    kernel = layer.weight.shape[-1]
    return replace(layer, weight=flat.reshape(len(bias), -1, kernel, kernel).contiguous(), bias=bias)
