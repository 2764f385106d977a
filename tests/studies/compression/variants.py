"""The models whose arithmetic is timed: architectures with random weights, plain or cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from edge_ad.describe import describe
from edge_ad.nets.architecture import Architecture, PdnSpec, architecture, autoencoder_spec
from edge_ad.nets.model import EfficientAdNets
from edge_ad_converters.description import ConvLayer, DecoderStep, NetsDescription

SIDE = 256
"""Side of the input, in pixels, of all but PaDiM."""

Kind = Literal["plain", "fused", "anomalib", "padim"]
# The part of the paper's channels that the narrower networks keep is rounded to what integer kernels fill.
_MULTIPLE = 16


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    ``key`` names its folder, ``words`` stand in the table. ``plain`` is the graph that users export without us,
    quantized by each engine's own tool; ``fused`` is ours. ``directions`` are the channels that the differences
    to the teacher and to the autoencoder keep, None all of them. ``anomalib`` and ``padim`` have no architecture.
    """

    key: str
    words: str
    kind: Kind
    architecture: Architecture | None = None
    directions: tuple[int, int] | None = None


def variants() -> tuple[Variant, ...]:
    """All rows, in the table's order."""
    s, n = architecture("s"), architecture("n")
    narrow, half = narrower(s, 0.75), narrower(s, 0.5)
    return (
        Variant("anomalib-s", "anomalib's own S export", "anomalib"),
        Variant("padim", "PaDiM, ResNet-18", "padim"),
        Variant("s-plain", "S, plain", "plain", s),
        Variant("s-fused", "S, fused", "fused", s),
        Variant("s-directions-64", "S, 64/32 directions", "fused", s, (64, 32)),
        Variant("s-directions-32", "S, 32/16 directions", "fused", s, (32, 16)),
        Variant("s-shared-1", "S, conv1 shared", "fused", replace(s, shared_layers=1)),
        Variant("s-shared-2", "S, conv1-2 shared", "fused", replace(s, shared_layers=2)),
        Variant("s-light", "S, light autoencoder", "fused", light(s)),
        Variant("s-widths-75", "S, hidden layers 75 %", "fused", narrow),
        Variant("s-widths-50", "S, hidden layers 50 %", "fused", half),
        Variant("s-cut-50", "S, 32/16 directions, light autoencoder, hidden layers 50 %", "fused",
                light(half), (32, 16)),
        Variant("s-all-100", "S, conv1-2 shared, 64/32 directions, light autoencoder", "fused",
                light(replace(s, shared_layers=2)), (64, 32)),
        Variant("s-all-75", "S, conv1-2 shared, 32/16 directions, light autoencoder, hidden layers 75 %", "fused",
                light(replace(narrow, shared_layers=2)), (32, 16)),
        Variant("s-all-50", "S, conv1-2 shared, 32/16 directions, light autoencoder, hidden layers 50 %", "fused",
                light(replace(half, shared_layers=2)), (32, 16)),
        Variant("n-plain", "n, plain", "plain", n),
        Variant("n-fused", "n, fused", "fused", n),
        Variant("n-directions-32", "n, 32/16 directions", "fused", n, (32, 16)),
        Variant("n-widths-50", "n, hidden layers 50 %", "fused", narrower(n, 0.5)),
        Variant("n-cut-50", "n, 32/16 directions, hidden layers 50 %", "fused", narrower(n, 0.5), (32, 16)),
    )  # fmt: skip


BASE = "s-plain openvino"
"""What latencies are in ratio to: the plain graph of S, quantized by NNCF's defaults, in OpenVINO."""


def narrower(shape: Architecture, share: float) -> Architecture:
    """Both patch description networks with that share of their hidden channels."""
    body = tuple(
        replace(c, channels=max(_MULTIPLE, round(c.channels * share / _MULTIPLE) * _MULTIPLE))
        for c in shape.pdn.body
    )
    return replace(shape, pdn=PdnSpec(body, shape.pdn.head))


def light(shape: Architecture) -> Architecture:
    """The autoencoder without the decoder steps that are larger than the map, as the training option makes it."""
    return replace(shape, autoencoder=autoencoder_spec(shape.name, "light"))


def random_nets(shape: Architecture) -> EfficientAdNets:
    """Nets with random weights, the same at each call."""
    torch.manual_seed(0)
    return EfficientAdNets(shape, (SIDE, SIDE)).eval()


def random_description(variant: Variant) -> NetsDescription:
    """What a fused variant's graph is built from."""
    assert variant.architecture is not None
    described = describe(random_nets(variant.architecture))
    return described if variant.directions is None else _with_directions(described, *variant.directions)


def _with_directions(nets: NetsDescription, st: int, ae: int) -> NetsDescription:
    """Random last layers with fewer channels: the shape that leading directions leave, not their values."""
    channels = nets.teacher[-1].weight.shape[0]
    kept = [*range(st), *range(channels, channels + ae)]
    last = nets.decoder[-1]
    return replace(
        nets,
        teacher=(*nets.teacher[:-1], _rows(nets.teacher[-1], range(st))),
        student=(*nets.student[:-1], _rows(nets.student[-1], kept)),
        decoder=(*nets.decoder[:-1], DecoderStep(last.size, _rows(last.layer, range(ae)))),
        teacher_mean=nets.teacher_mean[:st],
        teacher_std=nets.teacher_std[:st],
    )


def _rows(layer: ConvLayer, kept: Sequence[int]) -> ConvLayer:
    return replace(layer, weight=layer.weight[list(kept)].clone(), bias=layer.bias[list(kept)].clone())
