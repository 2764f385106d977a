"""The patch description network (PDN), the body of teacher and student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_ad.nets.architecture import ConvSpec
from edge_ad_runtime.errors import InputError


class Pdn(nn.Module):
    """Convolutions with ReLU and average pooling, no normalization layers (arXiv 2303.14535, Tables 6, 7).

    Input ``float32 Nx3xHxW``, ImageNet-normalized; output ``float32 NxCxhxw``, one descriptor for each
    patch of 33x33 pixels. Without padding, 256 px give 56x56; with padding 64x64.
    """

    def __init__(self, layers: Sequence[ConvSpec], padded: bool = False, in_channels: int = 3) -> None:
        super().__init__()
        self.specs = tuple(layers)
        self.padded = padded
        self.convs = nn.ModuleList()
        channels = in_channels
        for spec in self.specs:
            padding = spec.padding if padded else 0
            self.convs.append(nn.Conv2d(channels, spec.channels, spec.kernel, padding=padding))
            channels = spec.channels
        self.pool = nn.AvgPool2d(2, 2, padding=1 if padded else 0)

    @property
    def out_channels(self) -> int:
        return self.specs[-1].channels

    def forward(self, image: Tensor) -> Tensor:
        return self.span(image, 0, len(self.specs))

    def span(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Run the convolutions ``start`` to ``stop`` (exclusive), each with its ReLU and pooling."""
        for spec, conv in zip(self.specs[start:stop], self.convs[start:stop], strict=True):
            x = conv(x)
            if spec.relu:
                x = torch.relu(x)
            if spec.pool:
                x = self.pool(x)
        return x


def map_size(layers: Sequence[ConvSpec], padded: bool, height: int, width: int) -> tuple[int, int]:
    """Height and width of the descriptors' grid for an input of ``height`` x ``width`` pixels.

    Raises:
        InputError: the input is smaller than the receptive field.
    """
    size = [height, width]
    for spec in layers:
        for axis in (0, 1):
            size[axis] += 1 - spec.kernel + (2 * spec.padding if padded else 0)
            if spec.pool:
                size[axis] = (size[axis] + (2 if padded else 0)) // 2
            if size[axis] < 1:
                raise InputError(f"{width}x{height} px is smaller than the receptive field of the network")
    return size[0], size[1]
