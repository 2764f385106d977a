"""Teacher, student and autoencoder as one graph, with every folding that is exact.

``uint8 1xHxWx3`` RGB in, the two raw maps ``float32 1xhxw`` out. What is folded, with no approximation:

- the image's normalization goes into the first convolutions. Where these pad with zeros (that is, with
  the mean colour), a fourth input channel, constant 255 and padded with 0, carries the mean;
- teacher and student that share no layer share their first convolution's input: it becomes one;
- the teacher's channel normalization goes into its last convolution;
- ``T - S_st`` is one convolution over the joined last features, so no two tensors are rounded and then
  subtracted; likewise ``A - S_ae``;
- the channels of the difference are rotated by an orthogonal matrix, which leaves the mean of their
  squares as it is, so that all have similar ranges: that suits an integer grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_ad_converters.description import ConvLayer, NetsDescription

_WHITE = 255
# What a centred graph subtracts from the image: uint8 then fits int8.
CENTRE = 128


class FusedNets(nn.Module):
    """The fused graph as a torch module; :func:`fuse` builds it.

    A centred one subtracts 128 from the image before the first convolutions and takes it into account in
    their weights: engines whose integers are symmetric then read the image without loss.
    """

    def __init__(self, nets: NetsDescription, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.input_size, self.map_size = nets.input_size, nets.map_size
        self.padded = nets.teacher[0].padding > 0
        self.shared = nets.shared
        if nets.shared:
            trunk, teacher, student = nets.teacher[: nets.shared], nets.teacher[nets.shared :], nets.student
        else:
            trunk = (_joined(nets.teacher[0], nets.student[0]),)
            teacher, student = nets.teacher[1:], nets.student[1:]
        self.trunk = _Chain((_take_image(trunk[0], nets, centred), *trunk[1:]))
        self.teacher, self.student = _Chain(teacher[:-1]), _Chain(student[:-1])
        self.encoder = _Chain((_take_image(nets.encoder[0], nets, centred), *nets.encoder[1:]))
        self.steps = nn.ModuleList(_Chain((s.layer,)) for s in nets.decoder[:-1])
        self.sizes = [s.size for s in nets.decoder[:-1]]
        self.teacher_width = nets.teacher[0].weight.shape[0]
        self.difference_st, self.difference_ae = _heads(nets, teacher[-1], student[-1])
        last, kernel = nets.decoder[-1].layer, student[-1].weight.shape[-1]
        self.unfold = last.weight.shape[-1] if kernel == 1 else 1
        spare = 0 if kernel == 1 else kernel - last.weight.shape[-1]
        # The spare columns meet zero weights only: what fills them does not matter.
        self.margin = (last.padding, last.padding + spare) * 2
        self.margin_mode = "replicate" if last.replicate else "constant"
        self.register_buffer("white", torch.full((1, *nets.input_size, 1), _WHITE, dtype=torch.uint8), False)
        self.white: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``uint8 1xHxWx3`` to the raw maps ``float32 1xhxw``."""
        three = image.permute(0, 3, 1, 2).float()
        four = torch.cat((image, self.white), 3).permute(0, 3, 1, 2).float()
        if self.centred:
            three, four = three - CENTRE, four - CENTRE
        trunk = self.trunk(four if self.padded else three)
        for_teacher = trunk if self.shared else trunk[:, : self.teacher_width]
        for_student = trunk if self.shared else trunk[:, self.teacher_width :]
        teacher, student = self.teacher(for_teacher), self.student(for_student)
        x = self.encoder(four)
        for size, step in zip(self.sizes, self.steps, strict=True):
            if size is not None:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = step(x)
        x = _unfolded(F.pad(x, self.margin, self.margin_mode), self.unfold)
        map_st = _mean_square(self.difference_st(torch.cat((teacher, student), 1)))
        map_ae = _mean_square(self.difference_ae(torch.cat((x, student), 1)))
        return map_st, map_ae


def fuse(nets: NetsDescription, centred: bool = False) -> FusedNets:
    """Fuse the nets; the result is in evaluation mode, without gradients."""
    return FusedNets(nets, centred).eval().requires_grad_(False)


class _Chain(nn.Module):
    """Convolutions with their ReLU and pooling."""

    def __init__(self, layers: Sequence[ConvLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in layers:
            self.layers.append(_conv(layer.weight, layer.bias, layer.stride, layer.padding, layer.replicate))
            if layer.relu:
                self.layers.append(nn.ReLU())
            if layer.pool:
                self.layers.append(nn.AvgPool2d(2, 2, padding=layer.pool_padding))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _conv(
    weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, replicate: bool = False
) -> nn.Conv2d:
    out, width, kernel = weight.shape[:3]
    mode: Literal["replicate", "zeros"] = "replicate" if replicate else "zeros"
    conv = nn.Conv2d(width, out, kernel, stride=stride, padding=padding, padding_mode=mode)
    conv.load_state_dict({"weight": weight, "bias": bias})
    return conv


def _mean_square(difference: Tensor) -> Tensor:
    return (difference * difference).mean(1)


def _joined(a: ConvLayer, b: ConvLayer) -> ConvLayer:
    """Two convolutions of the same input and shape as one."""
    weight, bias = torch.cat((a.weight, b.weight)), torch.cat((a.bias, b.bias))
    return ConvLayer(weight, bias, a.stride, a.padding, a.relu, a.pool, a.pool_padding)


def _take_image(layer: ConvLayer, nets: NetsDescription, centred: bool) -> ConvLayer:
    """The layer with the image's normalization in it, for pixel values of 0 to 255, or of -128 to 127.

    An unpadded layer takes three channels and keeps the mean in its bias. A padded one takes a fourth,
    constant channel for the mean: its zero padding then is exactly the padding of the normalized image.
    """
    white, centre = (_WHITE - CENTRE, CENTRE) if centred else (_WHITE, 0)
    mean = layer.weight.new_tensor(nets.image_mean).view(1, 3, 1, 1).double()
    std = layer.weight.new_tensor(nets.image_std).view(1, 3, 1, 1).double()
    weight = layer.weight.double()
    scaled = weight / (255 * std)
    offset = (scaled * centre - weight * mean / std).sum(1, keepdim=True)
    bias = layer.bias
    if layer.padding:
        scaled = torch.cat((scaled, offset / white), 1)
    else:
        bias = (bias.double() + offset.sum((1, 2, 3))).to(bias.dtype)
    return replace(layer, weight=scaled.to(layer.weight.dtype), bias=bias)


def _heads(nets: NetsDescription, teacher: ConvLayer, student: ConvLayer) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The convolutions that give ``T - S_st`` over [teacher; student] and ``A - S_ae`` over [autoencoder; student]."""
    channels = teacher.weight.shape[0]
    last = nets.decoder[-1].layer
    sigma, mu = nets.teacher_std.double(), nets.teacher_mean.double()
    t_weight = teacher.weight.double() / sigma.view(-1, 1, 1, 1)
    t_bias = (teacher.bias.double() - mu) / sigma
    s_weight, s_bias = student.weight.double(), student.bias.double()
    st_weight = torch.cat((t_weight, -s_weight[:channels]), 1)
    st_bias = t_bias - s_bias[:channels]
    ae_weight = torch.cat((_fitted(last.weight.double(), s_weight.shape[-1]), -s_weight[channels:]), 1)
    ae_bias = last.bias.double() - s_bias[channels:]
    return _rotated(st_weight, st_bias), _rotated(ae_weight, ae_bias)


def _rotated(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    rotation = _rotation(len(bias))
    return _conv(torch.einsum("oc,cikl->oikl", rotation, weight).float(), (rotation @ bias).float())


def _fitted(weight: Tensor, kernel: int) -> Tensor:
    """The autoencoder's last kernel in the student's kernel size, so that the two can be joined.

    It stands in the top left corner of a larger kernel, or, for a student's kernel of 1, becomes one of size
    1 over the unfolded input.
    """
    if kernel == 1:
        return weight.permute(0, 2, 3, 1).flatten(1)[:, :, None, None]
    spare = kernel - weight.shape[-1]
    return F.pad(weight, (0, spare, 0, spare))


def _unfolded(x: Tensor, kernel: int) -> Tensor:
    """Each ``kernel x kernel`` neighbourhood as channels, position by position."""
    if kernel == 1:
        return x
    height, width = x.shape[2] - kernel + 1, x.shape[3] - kernel + 1
    return torch.cat(
        [x[:, :, i : i + height, j : j + width] for i in range(kernel) for j in range(kernel)], 1
    )


def _rotation(channels: int) -> Tensor:
    """A fixed random orthogonal matrix, ``float64 CxC``."""
    generator = torch.Generator().manual_seed(channels)
    gaussian = torch.randn(channels, channels, dtype=torch.double, generator=generator)
    rotation: Tensor = torch.linalg.qr(gaussian).Q
    return rotation
