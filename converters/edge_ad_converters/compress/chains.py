"""The nets as chains of hidden layers and the last layers that make the two differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from edge_ad_converters.compress.layers import activate, convolve, plain_teacher, resized
from edge_ad_converters.description import ConvLayer, DecoderStep, NetsDescription


class Features(NamedTuple):
    """What the last layers read, ``float32 NxCxhxw`` each."""

    teacher: Tensor
    student: Tensor
    autoencoder: Tensor


class Differences(NamedTuple):
    """``T - S_st`` and ``A - S_ae``, ``float32 NxRxhxw`` each."""

    st: Tensor
    ae: Tensor


@dataclass(frozen=True)
class Chains:
    """Hidden layers up to the features, and the last layers.

    ``trunk`` is shared by teacher and student and empty where they share nothing. ``steps`` are the decoder's
    but for the last, which is ``autoencoder_last``. The teacher's normalization is in ``teacher_last``.
    """

    trunk: tuple[ConvLayer, ...]
    teacher: tuple[ConvLayer, ...]
    student: tuple[ConvLayer, ...]
    encoder: tuple[ConvLayer, ...]
    steps: tuple[DecoderStep, ...]
    teacher_last: ConvLayer
    student_last: ConvLayer
    autoencoder_last: ConvLayer

    def features(self, image: Tensor) -> Features:
        """Of normalized images ``float32 Nx3xHxW``."""
        trunk = _run(self.trunk, image)
        return Features(_run(self.teacher, trunk), _run(self.student, trunk), self.decoded(image))

    def decoded(self, image: Tensor) -> Tensor:
        """What the autoencoder's steps make of normalized images."""
        x = _run(self.encoder, image)
        for step in self.steps:
            x = activate(step.layer, convolve(step.layer, resized(step, x)))
        return x

    def differences(self, features: Features) -> Differences:
        """What the maps are the mean squares of."""
        teacher = convolve(self.teacher_last, features.teacher)
        autoencoder = convolve(self.autoencoder_last, features.autoencoder)
        student = convolve(self.student_last, features.student)
        st = teacher.shape[1]
        return Differences(teacher - student[:, :st], autoencoder - student[:, st:])

    def layers(self) -> Iterator[ConvLayer]:
        """All convolutions but the encoder's."""
        yield from (*self.trunk, *self.teacher, *self.student)
        yield from (s.layer for s in self.steps)
        yield from (self.teacher_last, self.student_last, self.autoencoder_last)


def _run(chain: tuple[ConvLayer, ...], x: Tensor) -> Tensor:
    for layer in chain:
        x = activate(layer, convolve(layer, x))
    return x


def chains_of(nets: NetsDescription) -> Chains:
    """The chains of described nets."""
    teacher = plain_teacher(nets)
    return Chains(
        trunk=teacher[: nets.shared],
        teacher=teacher[nets.shared : -1],
        student=nets.student[:-1],
        encoder=nets.encoder,
        steps=nets.decoder[:-1],
        teacher_last=teacher[-1],
        student_last=nets.student[-1],
        autoencoder_last=nets.decoder[-1].layer,
    )


def described(chains: Chains, nets: NetsDescription) -> NetsDescription:
    """The chains as nets with the sizes of ``nets``."""
    channels = len(chains.teacher_last.bias)
    return replace(
        nets,
        teacher=(*chains.trunk, *chains.teacher, chains.teacher_last),
        student=(*chains.student, chains.student_last),
        encoder=chains.encoder,
        decoder=(*chains.steps, DecoderStep(None, chains.autoencoder_last)),
        teacher_mean=torch.zeros(channels),
        teacher_std=torch.ones(channels),
    )
