"""Described layers as functions, and the patches that a convolution sees."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ad_converters.description import ConvLayer, DecoderStep, NetsDescription


def padded(layer: ConvLayer, x: Tensor) -> Tensor:
    """What the convolution runs over, ``float32 NxCxHxW`` with its border."""
    if not layer.padding:
        return x
    return F.pad(x, (layer.padding,) * 4, "replicate" if layer.replicate else "constant")


def convolve(layer: ConvLayer, x: Tensor) -> Tensor:
    """The convolution alone, before ReLU and pooling."""
    return F.conv2d(padded(layer, x), layer.weight, layer.bias, layer.stride)


def activate(layer: ConvLayer, y: Tensor) -> Tensor:
    """ReLU and pooling, as far as the layer has them."""
    if layer.relu:
        y = torch.relu(y)
    return F.avg_pool2d(y, 2, 2, padding=layer.pool_padding) if layer.pool else y


def resized(step: DecoderStep, x: Tensor) -> Tensor:
    """The decoder step's input at its size."""
    if step.size is None:
        return x
    return F.interpolate(x, size=step.size, mode="bilinear", align_corners=False)


def patches(layer: ConvLayer, x: Tensor, places: Tensor) -> Tensor:
    """The flattened neighbourhoods, ``P x (C k k)``, that give the layer's outputs at ``places`` of one image.

    ``places`` are ``int64 Px2``, row and column on the output's grid; ``x`` is ``float32 1xCxHxW``.
    """
    kernel, stride = layer.weight.shape[-1], layer.stride
    windows = padded(layer, x)[0].unfold(1, kernel, stride).unfold(2, kernel, stride)
    return windows[:, places[:, 0], places[:, 1]].transpose(0, 1).flatten(1)


def plain_teacher(nets: NetsDescription) -> tuple[ConvLayer, ...]:
    """The teacher with its channel normalization in the last convolution."""
    last = nets.teacher[-1]
    sigma, mu = nets.teacher_std.double(), nets.teacher_mean.double()
    weight = last.weight.double() / sigma.view(-1, 1, 1, 1)
    bias = (last.bias.double() - mu) / sigma
    return (*nets.teacher[:-1], replace(last, weight=weight.float(), bias=bias.float()))


def normalized(nets: NetsDescription, image: Tensor) -> Tensor:
    """``uint8 1xHxWx3`` to ``float32 1x3xHxW`` as the layers take it."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (nets.image_mean, nets.image_std))
    return (image.permute(0, 3, 1, 2).float() / 255 - mean) / std
