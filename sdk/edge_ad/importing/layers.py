"""Weights under foreign names become state dicts of this package's nets; every shape is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_ad.importing.archive import StoredTensor, TorchFile
from edge_ad.nets.architecture import Architecture, architecture
from edge_ad.nets.autoencoder import MIN_SIZE, Autoencoder
from edge_ad.nets.pdn import Pdn
from edge_ad_runtime.errors import InputError

# The sizes that others know.
_SIZES = ("s", "m")
_SHOWN, _LONGEST = 4, 80
PARTS = ("weight", "bias")


@dataclass(frozen=True)
class ForeignNets:
    """The three nets of a foreign training, in the form of this package.

    Args:
        origin: what they were saved by.
        architecture: their size, with their own number of teacher channels.
        nets: state dicts of ``teacher``, ``student`` and ``autoencoder``.
        teacher_mean, teacher_std: ``float32 1xCx1x1``, where the file has them.
        padded: whether the nets pad, where the file says so.
        image_size: height and width of the nets' input, where the file says so.
    """

    origin: str
    architecture: Architecture
    nets: Mapping[str, Mapping[str, Tensor]]
    teacher_mean: Tensor | None = None
    teacher_std: Tensor | None = None
    padded: bool | None = None
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Weights:
    """Named tensors of a file, not read yet."""

    file: TorchFile
    tensors: Mapping[str, StoredTensor]

    def named(self, name: str) -> StoredTensor:
        """A tensor by its name.

        Raises:
            InputError: it is not there.
        """
        if name not in self.tensors:
            raise InputError(
                f"{self.file.name}: is not an EfficientAD model known here: {name} is missing (it holds "
                f"{shorten(self.tensors)})"
            )
        return self.tensors[name]

    def read(self, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor of the expected shape.

        Raises:
            InputError: it is missing, of another shape, or not finite.
        """
        stored = self.named(name)
        if stored.shape != tuple(shape):
            raise InputError(
                f"{self.file.name}: {name} has the shape {list(stored.shape)}, expected {list(shape)}"
            )
        value = self.file.tensor(stored)
        if not torch.isfinite(value).all():
            raise InputError(f"{self.file.name}: {name} is not finite (NaN or infinite)")
        return value


def empty_autoencoder(shape: Architecture) -> Autoencoder:
    """An autoencoder without weights, for the names and shapes of its convolutions; these fit any image size."""
    with torch.device("meta"):
        return Autoencoder(shape.autoencoder, shape.teacher_channels, (MIN_SIZE, MIN_SIZE), (1, 1))


def shorten(names: Mapping[Any, object]) -> str:
    """The first few names, for an error."""
    texts = [n[:_LONGEST] for n in names if isinstance(n, str)]
    return (", ".join(texts[:_SHOWN]) + (", …" if len(texts) > _SHOWN else "")) or "nothing with a name"


def recognize(weights: Weights, layers: Sequence[str]) -> Architecture:
    """The architecture of a teacher, by the shapes of its first convolution and its last.

    Args:
        weights: of the teacher.
        layers: the names of its convolutions.

    Raises:
        InputError: it is none of the sizes known here.
    """
    first, last = (weights.named(f"{layers[i]}.weight").shape for i in (0, -1))
    for size in _SIZES:
        known = architecture(size)
        specs = known.pdn.layers(0)
        start = (specs[0].channels, 3, specs[0].kernel, specs[0].kernel)
        if first == start and len(layers) == len(specs) and len(last) == 4:
            return dataclasses.replace(known, teacher_channels=last[0])
    raise InputError(
        f"{weights.file.name}: a first convolution of the shape {list(first)} and {len(layers)} convolutions "
        f"are not those of a size {' or '.join(_SIZES)}"
    )


def read_pdn(
    weights: Weights, layers: Sequence[str], shape: Architecture, channels: int
) -> dict[str, Tensor]:
    """The state dict of a patch description network with ``channels`` outputs.

    Raises:
        InputError: a weight is missing, of another shape, or not finite.
    """
    with torch.device("meta"):
        own = Pdn(shape.pdn.layers(channels))
    return read_module(weights, dict(zip(conv_names(own), layers, strict=True)), own)


def read_module(weights: Weights, names: Mapping[str, str], own: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``own``, whose convolution ``key`` is called ``names[key]`` in the file.

    Raises:
        InputError: a weight is missing, of another shape, or not finite.
    """
    shapes = own.state_dict()
    return {
        f"{key}.{part}": weights.read(f"{foreign}.{part}", shapes[f"{key}.{part}"].shape)
        for key, foreign in names.items()
        for part in PARTS
    }


def conv_names(own: nn.Module) -> list[str]:
    """The names of a net's convolutions, in the order they run."""
    return [name for name, module in own.named_modules() if isinstance(module, nn.Conv2d)]
