"""The autoencoder, which learns what a whole good image looks like."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_ad.nets.architecture import AutoencoderSpec
from edge_ad_runtime.errors import InputError

LATENT_KERNEL = 8
MIN_SIZE = 256


class Autoencoder(nn.Module):
    """Encoder, latent bottleneck, and a decoder of bilinear resizing and convolutions.

    Source: arXiv 2303.14535, Table 8. Input ``float32 Nx3xHxW``, ImageNet-normalized, at least 256 px on
    each side; output ``float32 NxCxhxw`` of the teacher's grid ``map_size``. For other sizes than 256 px the
    decoder's sizes follow anomalib: H//64-1, H//32, H//16-1, H//8, H//4-1, H//2-1.
    """

    def __init__(
        self, spec: AutoencoderSpec, channels: int, input_size: tuple[int, int], map_size: tuple[int, int]
    ) -> None:
        super().__init__()
        if min(input_size) < MIN_SIZE:
            raise InputError(
                f"image size {input_size[1]}x{input_size[0]}: the autoencoder needs at least "
                f"{MIN_SIZE} px on each side"
            )
        self.spec = spec
        self.sizes = decoder_sizes(input_size)[: spec.decoder_steps]
        self.map_size = map_size
        self.encoder = nn.ModuleList()
        width = 3
        for out in spec.encoder:
            self.encoder.append(nn.Conv2d(width, out, 4, stride=2, padding=1))
            width = out
        self.encoder.append(nn.Conv2d(width, spec.latent, LATENT_KERNEL))
        self.decoder = nn.ModuleList()
        widths = [spec.latent, *[spec.decoder] * (len(self.sizes) + 1), channels]
        kernels = [(4, 2)] * len(self.sizes) + [(3, 1)] * 2
        for i, (kernel, padding) in enumerate(kernels):
            mode: Literal["replicate", "zeros"] = (
                "replicate" if i >= len(kernels) - spec.replicated else "zeros"
            )
            self.decoder.append(
                nn.Conv2d(widths[i], widths[i + 1], kernel, padding=padding, padding_mode=mode)
            )

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.decoder[-1](self.hidden(image))
        return out

    def hidden(self, image: Tensor) -> Tensor:
        """Everything before the last convolution."""
        x = image
        for conv in self.encoder[:-1]:
            x = torch.relu(conv(x))
        x = self.encoder[-1](x)
        for size, conv in zip(self.sizes, self.decoder[:-2], strict=True):
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = F.dropout(torch.relu(conv(x)), self.spec.dropout, self.training)
        x = F.interpolate(x, size=self.map_size, mode="bilinear", align_corners=False)
        return torch.relu(self.decoder[-2](x))


def decoder_sizes(input_size: tuple[int, int]) -> list[tuple[int, int]]:
    """The sizes that the decoder's six steps resize to."""
    h, w = input_size
    return [
        (h // 64 - 1, w // 64 - 1),
        (h // 32, w // 32),
        (h // 16 - 1, w // 16 - 1),
        (h // 8, w // 8),
        (h // 4 - 1, w // 4 - 1),
        (h // 2 - 1, w // 2 - 1),
    ]
