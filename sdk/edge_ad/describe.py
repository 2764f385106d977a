"""Trained nets in the plain form that the converters take."""

from __future__ import annotations

from torch import nn

from edge_ad.nets.model import IMAGENET_MEAN, IMAGENET_STD, EfficientAdNets
from edge_ad.nets.pdn import Pdn
from edge_ad_converters.description import ConvLayer, DecoderStep, NetsDescription


def describe(nets: EfficientAdNets) -> NetsDescription:
    """Describe the nets; the tensors are shared, on the CPU, without gradients."""
    auto = nets.autoencoder
    sizes = [*auto.sizes, auto.map_size, None]
    relus = [True] * (len(auto.decoder) - 1) + [False]
    return NetsDescription(
        input_size=nets.input_size,
        map_size=nets.map_size,
        teacher=pdn_layers(nets.teacher),
        student=pdn_layers(nets.student),
        shared=nets.architecture.shared_layers,
        encoder=tuple(_layer(c, relu=c is not auto.encoder[-1]) for c in auto.encoder),
        decoder=tuple(
            DecoderStep(size, _layer(conv, relu=relu))
            for size, conv, relu in zip(sizes, auto.decoder, relus, strict=True)
        ),
        teacher_mean=nets.teacher_mean.detach().cpu().flatten(),
        teacher_std=nets.teacher_std.detach().cpu().flatten(),
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )


def pdn_layers(net: Pdn) -> tuple[ConvLayer, ...]:
    """A patch description network's layers."""
    return tuple(
        _layer(conv, relu=spec.relu, pool=spec.pool, pool_padding=int(net.padded))
        for spec, conv in zip(net.specs, net.convs, strict=True)
    )


def _layer(module: nn.Module, relu: bool, pool: bool = False, pool_padding: int = 0) -> ConvLayer:
    assert isinstance(module, nn.Conv2d) and module.bias is not None
    stride, padding = module.stride[0], int(module.padding[0])
    weight, bias = (t.detach().cpu().float() for t in (module.weight, module.bias))
    replicate = module.padding_mode == "replicate"
    return ConvLayer(weight, bias, stride, padding, relu, pool, pool_padding if pool else 0, replicate)
