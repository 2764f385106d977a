"""How much of each part of the nets is kept, and what that costs in arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from edge_ad_converters.compress.chains import Chains, chains_of, described
from edge_ad_converters.compress.narrow import narrowed
from edge_ad_converters.description import ConvLayer, NetsDescription
from edge_ad_runtime.errors import InputError

# More directions than these are not kept apart: they hold next to nothing of the difference's energy.
MAX_DIRECTIONS = 128
# Shares of the hidden widths, from the mildest cut to the strongest.
_WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
# Shares of the differences' energy that are kept; the usual one goes with narrower layers.
_ENERGIES = (0.999, 0.99, 0.97, 0.95)
_USUAL_ENERGY = 0.99
_STEP = 8
_COLOURS = 3

# Each direction's share of the energy of the teacher-student and of the autoencoder-student difference, falling.
Energy: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """How much of each part is kept.

    Args:
        teacher: widths of the teacher's hidden convolutions, those that it shares with the student included.
        student: widths of the student's own hidden convolutions.
        st_directions: channels of the teacher-student difference.
        ae_directions: channels of the autoencoder-student difference.
        decoder_steps: the autoencoder's decoder steps before the resize to the map's size.
    """

    teacher: tuple[int, ...]
    student: tuple[int, ...]
    st_directions: int
    ae_directions: int
    decoder_steps: int

    def label(self, full: Shape) -> str:
        """In words, against the nets' own shape."""
        parts = []
        if (self.st_directions, self.ae_directions) != (full.st_directions, full.ae_directions):
            parts.append(f"directions {self.st_directions}/{self.ae_directions}")
        kept = sum(self.teacher + self.student) / sum(full.teacher + full.student)
        if kept < 1:
            parts.append(f"widths {kept:.0%}")
        if self.decoder_steps < full.decoder_steps:
            parts.append(f"decoder {self.decoder_steps} of {full.decoder_steps} steps")
        return ", ".join(parts) or "full"


def full_shape(nets: NetsDescription) -> Shape:
    """The nets' own shape; more than :data:`MAX_DIRECTIONS` directions count as that many."""
    chains = chains_of(nets)
    return Shape(
        teacher=_widths((*chains.trunk, *chains.teacher)),
        student=_widths(chains.student),
        st_directions=min(MAX_DIRECTIONS, len(chains.teacher_last.bias)),
        ae_directions=min(MAX_DIRECTIONS, len(chains.autoencoder_last.bias)),
        decoder_steps=len(chains.steps) - 1,
    )


def check_shape(nets: NetsDescription, shape: Shape) -> None:
    """Refuse a shape that is larger than the nets.

    Raises:
        InputError: it has more layers, channels, directions or steps than the nets, or none of something.
    """
    full = full_shape(nets)
    pairs = [
        ("widths of the teacher", shape.teacher, full.teacher),
        ("widths of the student", shape.student, full.student),
        ("directions", (shape.st_directions, shape.ae_directions), (full.st_directions, full.ae_directions)),
        ("decoder steps", (shape.decoder_steps,), (full.decoder_steps,)),
    ]
    for name, wanted, present in pairs:
        fits = len(wanted) == len(present) and all(1 <= w <= p for w, p in zip(wanted, present, strict=True))
        if not fits:
            raise InputError(f"{name} {wanted}: the nets have {present}; each must lie between 1 and that")


def shape_gmac(nets: NetsDescription, shape: Shape) -> float:
    """Multiply-accumulates of the fused graph of that shape for one image, in units of 1e9.

    Raises:
        InputError: see :func:`check_shape`.
    """
    check_shape(nets, shape)
    return description_gmac(described(_empty(chains_of(nets), shape), nets))


def description_gmac(nets: NetsDescription) -> float:
    """Multiply-accumulates of the fused graph for one image, in units of 1e9."""
    chains = chains_of(nets)
    trunk, size = _chain_macs(chains.trunk, nets.input_size)
    teacher, size_t = _chain_macs(chains.teacher, size)
    student, _ = _chain_macs(chains.student, size)
    encoder, size = _chain_macs(chains.encoder, nets.input_size)
    decoder = 0
    for step in chains.steps:
        macs, size = _chain_macs((step.layer,), step.size or size)
        decoder += macs
    student_kernel = chains.student_last.weight.shape[-1]
    own_kernel = chains.autoencoder_last.weight.shape[-1]
    taps = student_kernel**2
    read = chains.teacher_last.weight.shape[1] + chains.student_last.weight.shape[1]
    # The autoencoder's last kernel stands in one of the student's size, or is unfolded over a kernel of 1.
    beside = chains.autoencoder_last.weight.shape[1] * (own_kernel**2 if taps == 1 else taps)
    cells = math.prod(_output(chains.teacher_last, size_t))
    st = len(chains.teacher_last.bias) * read * taps
    ae = len(chains.autoencoder_last.bias) * (chains.student_last.weight.shape[1] * taps + beside)
    return (trunk + teacher + student + encoder + decoder + cells * (st + ae)) / 1e9


def _chain_macs(layers: Sequence[ConvLayer], size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """What a chain costs for an input of that size, and its output's size."""
    macs = 0
    for layer in layers:
        size = _output(layer, size)
        out, width, kernel, _ = layer.weight.shape
        # A padded first layer has a fourth channel, which carries the mean colour.
        width += width == _COLOURS and layer.padding > 0
        macs += math.prod(size) * out * width * kernel**2
        if layer.pool:
            size = (size[0] + 2 * layer.pool_padding) // 2, (size[1] + 2 * layer.pool_padding) // 2
    return macs, size


def _output(layer: ConvLayer, size: tuple[int, int]) -> tuple[int, int]:
    height, width = ((side + 2 * layer.padding - layer.weight.shape[-1]) // layer.stride + 1 for side in size)
    return height, width


def ladder(nets: NetsDescription, energy: Energy) -> tuple[Shape, ...]:
    """Shapes to try, from the mildest to the strongest: first fewer directions, then narrower layers too.

    The autoencoder's decoder loses the steps that are larger than the map with the first narrowing: what they
    make is shrunk to the map's size right after.

    Args:
        nets: what is cut.
        energy: of the differences' directions, as :attr:`Compressor.energy` gives it.
    """
    full = full_shape(nets)
    steps = sum(s.size is not None and s.size <= nets.map_size for s in nets.decoder[: full.decoder_steps])
    found = {_with_energy(full, energy, level) for level in _ENERGIES}
    fewer = _with_energy(full, energy, _USUAL_ENERGY)
    for share in _WIDTHS:
        found.add(
            replace(
                fewer,
                teacher=narrowed(full.teacher, share),
                student=narrowed(full.student, share),
                decoder_steps=steps,
            )
        )
    whole = description_gmac(nets)
    costs = {shape: shape_gmac(nets, shape) for shape in found}
    return tuple(sorted((s for s in found if costs[s] < whole), key=lambda s: -costs[s]))


def shape_for(nets: NetsDescription, fraction: float, energy: Energy) -> Shape:
    """The mildest shape of the ladder whose arithmetic is at most that share of the nets'.

    Raises:
        InputError: the share does not lie between 0 and 1, or no shape is so small.
    """
    if not 0 < fraction <= 1:
        raise InputError(
            f"the arithmetic cannot be cut to {fraction:g} of itself; give a share between 0 and 1"
        )
    whole = description_gmac(nets)
    full = full_shape(nets)
    for shape in (full, *ladder(nets, energy)):
        least = shape_gmac(nets, shape) / whole
        if least <= fraction:
            return shape
    raise InputError(f"the arithmetic cannot be cut to {fraction:g} of itself: {least:.2f} is the least")


def _with_energy(full: Shape, energy: Energy, level: float) -> Shape:
    """As few directions as keep that share of the energy, in whole steps."""
    st, ae = (
        min(most, -(-(int((shares.cumsum(0) < level).sum()) + 1) // _STEP) * _STEP)
        for shares, most in zip(energy, (full.st_directions, full.ae_directions), strict=True)
    )
    return replace(full, st_directions=st, ae_directions=ae)


def _widths(layers: Iterable[ConvLayer]) -> tuple[int, ...]:
    return tuple(len(layer.bias) for layer in layers)


def _empty(chains: Chains, shape: Shape) -> Chains:
    """Chains of that shape with zeros for weights."""
    shared = len(chains.trunk)
    trunk, width = _empty_chain(chains.trunk, shape.teacher[:shared], 3)
    teacher, t_width = _empty_chain(chains.teacher, shape.teacher[shared:], width)
    student, s_width = _empty_chain(chains.student, shape.student, width)
    steps = (*chains.steps[: shape.decoder_steps], chains.steps[-1])
    st, ae = shape.st_directions, shape.ae_directions
    return replace(
        chains,
        trunk=trunk,
        teacher=teacher,
        student=student,
        steps=steps,
        teacher_last=_zeros(chains.teacher_last, st, t_width),
        student_last=_zeros(chains.student_last, st + ae, s_width),
        autoencoder_last=_zeros(chains.autoencoder_last, ae, chains.autoencoder_last.weight.shape[1]),
    )


def _empty_chain(
    layers: Sequence[ConvLayer], widths: Sequence[int], width: int
) -> tuple[tuple[ConvLayer, ...], int]:
    found = []
    for layer, out in zip(layers, widths, strict=True):
        found.append(_zeros(layer, out, width))
        width = out
    return tuple(found), width


def _zeros(layer: ConvLayer, out: int, width: int) -> ConvLayer:
    kernel = layer.weight.shape[-1]
    return replace(layer, weight=torch.zeros(out, width, kernel, kernel), bias=torch.zeros(out))
