"""The cuts that are made of trained nets at conversion, each alone and together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_ad.nets.architecture import Architecture, architecture
from edge_ad_converters.compress import Energy, Shape, full_shape, shape_for
from edge_ad_converters.description import NetsDescription

_MULTIPLE = 16


@dataclass(frozen=True)
class Cut:
    """``shape`` gives what is kept of described nets, whose directions hold that energy; None keeps all of them, as a conversion without
    ``--compress`` does. With a ``tool``, a step of :mod:`tests.studies.peers`, nothing is cut nor fused: that tool
    quantizes the plain graph. ``row`` ends the key of its line in the table where that is not ``key``."""

    key: str
    words: str
    shape: Callable[[NetsDescription, Energy], Shape] | None = None
    tool: str | None = None
    row: str = ""


def directions(st: int, ae: int) -> Cut:
    """Fewer directions of both differences, nothing else."""

    def shape(nets: NetsDescription, _: Energy) -> Shape:
        full = full_shape(nets)
        return replace(
            full, st_directions=min(st, full.st_directions), ae_directions=min(ae, full.ae_directions)
        )

    return Cut(f"directions-{st}", f"{st}/{ae} directions", shape)


def light() -> Cut:
    """The decoder without the steps that are larger than the map."""

    def shape(nets: NetsDescription, _: Energy) -> Shape:
        full = full_shape(nets)
        sizes = [step.size for step in nets.decoder[: full.decoder_steps]]
        return replace(full, decoder_steps=sum(s is not None and s <= nets.map_size for s in sizes))

    return Cut("light", "light autoencoder", shape)


def widths(percent: int) -> Cut:
    """Narrower hidden layers of teacher and student."""

    def shape(nets: NetsDescription, _: Energy) -> Shape:
        full = full_shape(nets)
        return replace(
            full, teacher=_narrowed(full.teacher, percent), student=_narrowed(full.student, percent)
        )

    return Cut(f"widths-{percent}", f"hidden layers {percent} %", shape)


def share(percent: int) -> Cut:
    """What ``edge-ad convert --compress`` takes for that share of the arithmetic."""
    return Cut(
        f"share-{percent}",
        f"--compress {percent / 100:g}",
        lambda nets, energy: shape_for(nets, percent / 100, energy),
    )


def _narrowed(channels: tuple[int, ...], percent: int) -> tuple[int, ...]:
    return tuple(max(_MULTIPLE, round(c * percent / 100 / _MULTIPLE) * _MULTIPLE) for c in channels)


FUSED = Cut("fused", "fused")
AUTO = Cut("auto", "--compress auto")
"""Chooses its shape by what the limits allow, so it has none before."""
CUTS: dict[str, Cut] = {
    c.key: c
    for c in (
        Cut("plain", "plain", tool="openvino"), Cut("plain-ort", "plain, onnxruntime's quantizer", tool="ort"),
        Cut("plain-litert", "plain, ai-edge-quantizer", tool="litert"),
        FUSED, directions(64, 32), directions(32, 16), light(), widths(75), widths(50), share(50), share(25), AUTO,
    )
}  # fmt: skip
"""By key, in the table's order. Where the nets have more directions than are kept apart, each shape but the first
has only those."""


def trained_as(shape: Architecture, size: str) -> tuple[str, str]:
    """A run's nets by key and in words: the size, and what was cut when it was trained."""
    own = architecture(size)
    keys, words = [size], [size.upper() if size != "n" else size]
    if shape.shared_layers != own.shared_layers:
        keys.append(f"shared-{shape.shared_layers}")
        words.append(f"conv1-{shape.shared_layers} shared" if shape.shared_layers > 1 else "conv1 shared")
    if shape.projected_from is not None:
        keys.append(f"directions-{shape.teacher_channels}")
        words.append(f"trained with {shape.teacher_channels} directions")
    elif shape.teacher_channels != own.teacher_channels:
        keys.append(f"channels-{shape.teacher_channels}")
        words.append(f"trained with {shape.teacher_channels} channels")
    if shape.autoencoder != own.autoencoder:
        kept = shape.autoencoder.decoder_steps
        light_one = kept < own.autoencoder.decoder_steps
        keys.append("light" if light_one else f"decoder-{kept}")
        words.append("light autoencoder" if light_one else f"decoder of {kept} steps")
    return "-".join(keys), ", ".join(words)
