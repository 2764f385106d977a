"""What a converter needs to know of trained nets, without knowing their classes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ConvLayer:
    """A convolution and what follows it.

    ``weight`` is ``float32 OxIxkxk``, ``bias`` ``float32 O``; ``padding`` is of zeros, or repeats the border
    where ``replicate`` is set; ``pool`` is the 2x2 average pooling after the ReLU, padded by ``pool_padding``.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    relu: bool = True
    pool: bool = False
    pool_padding: int = 0
    replicate: bool = False


@dataclass(frozen=True)
class DecoderStep:
    """A bilinear resize to ``size`` (height, width), or none, then a convolution."""

    size: tuple[int, int] | None
    layer: ConvLayer


@dataclass(frozen=True)
class NetsDescription:
    """Teacher, student and autoencoder as plain layers.

    The student's first ``shared`` convolutions are the teacher's and not repeated in ``student``. The
    student's last layer gives first the imitation of the teacher (as many channels as the teacher has), then
    that of the autoencoder (as many as that has; the two may differ).
    ``teacher_mean`` and ``teacher_std`` (``float32 C``) normalize the teacher's output. The image is divided
    by 255, then normalized with ``image_mean`` and ``image_std``.
    """

    input_size: tuple[int, int]
    map_size: tuple[int, int]
    teacher: tuple[ConvLayer, ...]
    student: tuple[ConvLayer, ...]
    shared: int
    encoder: tuple[ConvLayer, ...]
    decoder: tuple[DecoderStep, ...]
    teacher_mean: Tensor
    teacher_std: Tensor
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
