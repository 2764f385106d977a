"""Teacher, student and autoencoder together, and the two raw anomaly maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edge_ad.nets.architecture import Architecture
from edge_ad.nets.autoencoder import Autoencoder
from edge_ad.nets.pdn import Pdn, map_size
from edge_ad_runtime.types import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class StudentOutput(NamedTuple):
    """``st`` imitates the teacher, ``ae`` the autoencoder; ``float32 NxCxhxw`` each."""

    st: Tensor
    ae: Tensor


class EfficientAdNets(nn.Module):
    """The three networks of one size, for one input size.

    The student takes its first ``architecture.shared_layers`` convolutions from the frozen teacher (the
    idea of PaSTe, arXiv 2410.11591); ``trunk`` runs them once for both.
    """

    teacher_mean: Tensor
    teacher_std: Tensor

    def __init__(self, architecture: Architecture, input_size: tuple[int, int], padded: bool = False) -> None:
        super().__init__()
        self.architecture, self.input_size, self.padded = architecture, input_size, padded
        channels, shared = architecture.teacher_channels, architecture.shared_layers
        wide = architecture.projected_from
        teacher_layers = architecture.pdn.layers(channels, wide)
        student_layers = architecture.pdn.layers(2 * channels, None if wide is None else 2 * wide)
        self.map_size = map_size(teacher_layers, padded, *input_size)
        self.teacher = Pdn(teacher_layers, padded).requires_grad_(False)
        width = teacher_layers[shared - 1].channels if shared else 3
        self.student = Pdn(student_layers[shared:], padded, in_channels=width)
        self.autoencoder = Autoencoder(architecture.autoencoder, channels, input_size, self.map_size)
        self.register_buffer("teacher_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("teacher_std", torch.ones(1, channels, 1, 1))

    def trunk(self, image: Tensor) -> Tensor:
        """The convolutions that teacher and student share; the image itself when they share none."""
        return self.teacher.span(image, 0, self.architecture.shared_layers)

    def teacher_raw(self, trunk: Tensor) -> Tensor:
        """The teacher's descriptors before normalization."""
        return self.teacher.span(trunk, self.architecture.shared_layers, len(self.teacher.specs))

    def teacher_normalized(self, trunk: Tensor) -> Tensor:
        """The teacher's descriptors, each channel with mean 0 and deviation 1 over the training images."""
        return (self.teacher_raw(trunk) - self.teacher_mean) / self.teacher_std

    def student_split(self, trunk: Tensor) -> StudentOutput:
        """The student's two halves."""
        return StudentOutput(*self.student(trunk).chunk(2, dim=1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps ``map_st`` and ``map_ae``, ``float32 Nxhxw``, of ImageNet-normalized images ``Nx3xHxW``."""
        trunk = self.trunk(image)
        teacher, student = self.teacher_normalized(trunk), self.student_split(trunk)
        autoencoder = self.autoencoder(image)
        return ((teacher - student.st) ** 2).mean(1), ((autoencoder - student.ae) ** 2).mean(1)


def to_tensor(images: Image) -> Tensor:
    """``uint8 NxHxWx3`` RGB to ``float32 Nx3xHxW`` in 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div(255)


def normalize(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its deviation; ``float32 Nx3xHxW`` in 0 to 1."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std
