"""Recovery: the compressed nets learn the full nets' differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from edge_ad_converters.compress.chains import Chains, Differences
from edge_ad_converters.description import ConvLayer

RECOVERY_STEPS = 300
_BATCH = 2
_RATE = 3e-4


class Example(NamedTuple):
    """A normalized image, ``float32 1x3xHxW``, and the differences to learn on it."""

    image: Tensor
    wanted: Differences


def recover(
    chains: Chains,
    examples: Sequence[Example],
    normal: tuple[float, float],
    steps: int,
    seed: int,
    status: Callable[[str], None],
) -> Chains:
    """Train all layers but the encoder's with Adam on the relative error of both differences.

    ``normal`` is each difference's median squared norm on good parts: below it an error counts in full, above it
    in proportion. Repeatable for a seed.
    """
    generator = torch.Generator().manual_seed(seed)
    learned = [
        replace(layer, weight=_leaf(layer.weight), bias=_leaf(layer.bias)) for layer in chains.layers()
    ]
    trained = _with_layers(chains, iter(learned))
    parameters = [p for layer in learned for p in (layer.weight, layer.bias)]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order: list[int] = []
    for step in range(steps):
        while len(order) < _BATCH:
            order += torch.randperm(len(examples), generator=generator).tolist()
        picked, order = order[:_BATCH], order[_BATCH:]
        image = torch.cat([examples[i].image for i in picked])
        found = trained.differences(trained.features(image))
        loss = torch.zeros(())
        for i, (difference, level) in enumerate(zip(found, normal, strict=True)):
            wanted = torch.cat([examples[n].wanted[i] for n in picked])
            error = (difference - wanted).square().sum(1)
            loss = loss + (error / (wanted.square().sum(1) + level)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        status(f"recover, step {step + 1} of {steps}, error {float(loss.detach()):.4f}")
    done = [replace(layer, weight=layer.weight.detach(), bias=layer.bias.detach()) for layer in learned]
    return _with_layers(chains, iter(done))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(True)


def _with_layers(chains: Chains, layers: Iterator[ConvLayer]) -> Chains:
    """The chains with other layers, in the order of :meth:`Chains.layers`."""
    return replace(
        chains,
        trunk=tuple(next(layers) for _ in chains.trunk),
        teacher=tuple(next(layers) for _ in chains.teacher),
        student=tuple(next(layers) for _ in chains.student),
        steps=tuple(replace(step, layer=next(layers)) for step in chains.steps),
        teacher_last=next(layers),
        student_last=next(layers),
        autoencoder_last=next(layers),
    )
