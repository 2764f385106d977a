"""Narrower chains of convolutions: which channels stay, and weights that make up for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from edge_ad_converters.compress.layers import activate, convolve, patches
from edge_ad_converters.compress.moments import Moments
from edge_ad_converters.compress.refit import LeastSquares, rewritten, with_weights
from edge_ad_converters.compress.select import choose_channels, readers_energy, reconstruction
from edge_ad_converters.description import ConvLayer

# Places of each image that least squares see; neighbours tell little more.
PLACES = 200
# Widths that integer kernels fill without remainder.
_MULTIPLE = 16


def narrowed(widths: Sequence[int], share: float) -> tuple[int, ...]:
    """Each width times the share, as a multiple of what integer kernels like, never more than it was."""
    return tuple(min(w, max(_MULTIPLE, round(w * share / _MULTIPLE) * _MULTIPLE)) for w in widths)


def sample_places(y: Tensor, generator: torch.Generator) -> Tensor:
    """Up to :data:`PLACES` places of the grid of ``NxCxhxw``, row and column, ``int64 Px2``."""
    height, width = y.shape[2:]
    flat = torch.randperm(height * width, generator=generator)[:PLACES]
    return torch.stack((flat // width, flat % width), 1)


class LayerRecord:
    """What a layer gave in the full nets, image by image.

    Args:
        name: for messages.
        layer: of the full nets.
    """

    def __init__(self, name: str, layer: ConvLayer) -> None:
        self.name, self.layer = name, layer
        self.moments = Moments(len(layer.bias))
        self._places: list[Tensor] = []
        self._targets: list[Tensor] = []

    def look(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Run the layer on one image's ``float32 1xCxHxW``, remember, and return its activation."""
        y = convolve(self.layer, x)
        places = sample_places(y, generator)
        self._places.append(places)
        self._targets.append(y[0][:, places[:, 0], places[:, 1]].T.contiguous())
        x = activate(self.layer, y)
        self.moments.add(x[0].flatten(1).T)
        return x

    def comparable(self) -> Tensor:
        """The layer's weights in units of its outputs' deviation, so that the outputs compare."""
        deviation = torch.cat(self._targets).std(0).clamp(min=1e-6)
        return self.layer.weight / deviation[:, None, None, None]

    def refit(self, xs: Sequence[Tensor], rows: Tensor, guess: Tensor | None) -> ConvLayer:
        """The layer with weights that give its outputs ``rows`` from the images' inputs as they have become.

        ``guess``, ``OxIxkxk``, are all outputs' weights as far as they are known.
        """
        system = LeastSquares(xs[0].shape[1] * self.layer.weight.shape[-1] ** 2, len(rows))
        for x, places, targets in zip(xs, self._places, self._targets, strict=True):
            system.add(patches(self.layer, x, places), targets[:, rows])
        first = None if guess is None else guess[rows].flatten(1)
        return with_weights(self.layer, *system.solve(first))


def kept_channels(
    records: Sequence[LayerRecord], widths: Sequence[int], readers: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The channels of each layer of a chain that stay, and the weights that read the chain's input.

    ``readers`` are the weights, in units in which their outputs compare, that read the chain's output.
    """
    kept: list[Tensor] = []
    for record, width in zip(reversed(records), reversed(widths), strict=True):
        kept.insert(0, choose_channels(record.moments.covariance, readers_energy(readers), width))
        readers = [record.comparable()]
    return kept, readers


def read_through(layer: ConvLayer, made: Tensor | None) -> ConvLayer:
    """The layer for inputs of which ``made`` makes those that it has read so far; None: they are the same."""
    return layer if made is None else replace(layer, weight=rewritten(layer.weight, made))


def refit_chain(
    records: Sequence[LayerRecord],
    kept: Sequence[Tensor],
    xs: list[Tensor],
    made: Tensor | None,
    status: Callable[[str], None],
) -> tuple[tuple[ConvLayer, ...], list[Tensor], Tensor | None]:
    """Narrow a chain and fit each layer to what the layers before it have become.

    ``made`` (``float64 CxK``) makes the full nets' channels of those of the images' ``xs``; None says that they
    are the same. Returns the layers, their last outputs and the same for these.
    """
    fitted = []
    for record, channels in zip(records, kept, strict=True):
        layer = record.layer
        if made is None:
            layer = replace(layer, weight=layer.weight[channels], bias=layer.bias[channels])
        else:
            status(f"fit {record.name}")
            layer = record.refit(xs, channels, read_through(layer, made).weight)
        if made is not None or len(channels) < len(record.layer.bias):
            made = reconstruction(record.moments.covariance, channels)
        xs = [activate(layer, convolve(layer, x)) for x in xs]
        fitted.append(layer)
    return tuple(fitted), xs, made


def narrow_chain(
    layers: Sequence[ConvLayer], widths: Sequence[int], images: Sequence[Tensor], seed: int
) -> tuple[ConvLayer, ...]:
    """A chain whose hidden layers have other widths and whose last layer gives what it gave, as nearly as can be.

    Args:
        layers: the chain; the last layer keeps its width.
        widths: of the others.
        images: what the chain reads, ``float32 1xCxHxW`` each.
        seed: of the places that are looked at.
    """
    generator = torch.Generator().manual_seed(seed)
    records = [LayerRecord(f"layer {i + 1}", layer) for i, layer in enumerate(layers)]
    with torch.no_grad():
        for image in images:
            x = image
            for record in records:
                x = record.look(x, generator)
        kept, _ = kept_channels(records[:-1], widths, [records[-1].comparable()])
        last = torch.arange(len(layers[-1].bias))
        return refit_chain(records, [*kept, last], list(images), None, lambda _: None)[0]
