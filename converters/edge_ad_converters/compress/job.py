"""Compression of described nets: choose, refit, recover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from edge_ad_converters.compress.chains import Chains, Differences, Features, chains_of, described
from edge_ad_converters.compress.layers import activate, convolve, normalized, patches, resized
from edge_ad_converters.compress.moments import Moments, principal
from edge_ad_converters.compress.narrow import (
    LayerRecord,
    kept_channels,
    read_through,
    refit_chain,
    sample_places,
)
from edge_ad_converters.compress.recover import RECOVERY_STEPS, Example, recover
from edge_ad_converters.compress.refit import LeastSquares, with_weights
from edge_ad_converters.compress.shape import MAX_DIRECTIONS, Shape, check_shape, full_shape
from edge_ad_converters.description import ConvLayer, NetsDescription
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image


@dataclass(frozen=True)
class CompressionImages:
    """What the nets are compared on, ``uint8 1xHxWx3``, preprocessed.

    ``good`` parts; ``damaged`` ones, on which the maps must stand out as before; ``foreign`` pictures, on which the
    student does not know the teacher.
    """

    good: Sequence[Image]
    damaged: Sequence[Image]
    foreign: Sequence[Image]


class _Seen(NamedTuple):
    """A normalized image, the differences in their leading directions, and the places that last layers are fitted at."""

    image: Tensor
    differences: Differences
    places: Tensor


class _Kept(NamedTuple):
    """The channels that stay, layer by layer."""

    trunk: list[Tensor]
    teacher: list[Tensor]
    student: list[Tensor]


class Compressor:
    """Compresses nets to any number of shapes; the nets are looked at once.

    Args:
        nets: what to compress.
        images: the pictures on which the maps are kept.
        seed: of the sampled places and of the recovery.
        status: is told what is being done.

    Raises:
        InputError: there are no good images.
    """

    def __init__(
        self,
        nets: NetsDescription,
        images: CompressionImages,
        seed: int,
        status: Callable[[str], None] = lambda _: None,
    ) -> None:
        if not images.good:
            raise InputError("compression needs good images")
        self.nets, self.full = nets, full_shape(nets)
        self._chains, self._seed = chains_of(nets), seed
        self._status: Callable[[str], None] = lambda text: status(f"compress: {text}")
        self._generator = torch.Generator().manual_seed(seed)
        chains = self._chains
        self._trunk, self._teacher, self._student = (
            [LayerRecord(f"{name}, layer {i + 1}", layer) for i, layer in enumerate(layers)]
            for name, layers in (
                ("trunk", chains.trunk),
                ("teacher", chains.teacher),
                ("student", chains.student),
            )
        )
        self._decoder = LayerRecord("decoder", chains.steps[-1].layer)
        pictures = [*images.good, *images.damaged, *images.foreign]
        with torch.no_grad():
            seen = [self._look(p, f"{i + 1} of {len(pictures)} images") for i, p in enumerate(pictures)]
            self.normal = _normal([s.differences for s in seen[: len(images.good)]])
            self.directions, self.energy = _directions([s.differences for s in seen], self.normal)
            self._seen = [
                s._replace(
                    differences=Differences(
                        *(
                            _turn(d.float(), r).half()
                            for d, r in zip(s.differences, self.directions, strict=True)
                        )
                    )
                )
                for s in seen
            ]

    def compress(self, shape: Shape, steps: int | None = None) -> NetsDescription:
        """The nets in that shape, their maps as close to the full nets' as can be.

        Args:
            shape: how much is kept.
            steps: of recovery by distillation; None is the default number, 0 leaves it at least squares.

        Raises:
            InputError: the shape is larger than the nets.
        """
        check_shape(self.nets, shape)
        with torch.no_grad():
            fitted = self._fitted(shape)
        count = RECOVERY_STEPS if steps is None else steps
        if count:
            examples = [Example(s.image, self._wanted(s, shape)) for s in self._seen]
            fitted = recover(fitted, examples, self.normal, count, self._seed, self._status)
        # The mean over fewer channels is to stand for the mean over all of them.
        scales = (
            (shape.st_directions / len(self._chains.teacher_last.bias)) ** 0.5,
            (shape.ae_directions / len(self._chains.autoencoder_last.bias)) ** 0.5,
        )
        return described(_scaled(fitted, *scales), self.nets)

    def _wanted(self, seen: _Seen, shape: Shape) -> Differences:
        st, ae = seen.differences
        return Differences(st[:, : shape.st_directions].float(), ae[:, : shape.ae_directions].float())

    def _look(self, picture: Image, which: str) -> _Seen:
        """Run the full nets on an image and keep what the fits need."""
        self._status(f"look at {which}")
        chains, image = self._chains, normalized(self.nets, torch.from_numpy(picture.copy()))
        x = self._pass(self._trunk, image)
        teacher, student = self._pass(self._teacher, x), self._pass(self._student, x)
        step = chains.steps[-1]
        x = resized(step, replace(chains, steps=chains.steps[:-1]).decoded(image))
        features = Features(teacher, student, self._pass([self._decoder], x))
        found = chains.differences(features)
        places = sample_places(found.st, self._generator)
        return _Seen(image, Differences(*(d.half() for d in found)), places)

    def _pass(self, records: Sequence[LayerRecord], x: Tensor) -> Tensor:
        for record in records:
            x = record.look(x, self._generator)
        return x

    def _fitted(self, shape: Shape) -> Chains:
        turned = self._turned(shape)
        narrow = replace(shape, st_directions=self.full.st_directions, ae_directions=self.full.ae_directions)
        if narrow == self.full:
            # The features stay as they are: dropping directions is exact.
            return turned
        chains, kept = self._chains, self._kept(shape)
        images = [s.image for s in self._seen]
        trunk, xs, made = refit_chain(self._trunk, kept.trunk, images, None, self._status)
        teacher, ts, made_t = refit_chain(self._teacher, kept.teacher, xs, made, self._status)
        student, ss, made_s = refit_chain(self._student, kept.student, xs, made, self._status)
        del xs
        steps = (*chains.steps[: shape.decoder_steps], chains.steps[-1])
        short = replace(chains, steps=steps[:-1])
        last = steps[-1]
        inputs = [resized(last, short.decoded(image)) for image in images]
        shorter = shape.decoder_steps < self.full.decoder_steps
        if shorter:
            self._status("fit the decoder")
            rows = torch.arange(len(last.layer.bias))
            last = replace(last, layer=self._decoder.refit(inputs, rows, None))
        as_ = [activate(last.layer, convolve(last.layer, x)) for x in inputs]
        found = replace(
            turned,
            trunk=trunk,
            teacher=teacher,
            student=student,
            steps=(*steps[:-1], last),
            teacher_last=read_through(turned.teacher_last, made_t),
            student_last=read_through(turned.student_last, made_s),
        )
        return self._refit_last(found, shape, ts, ss, as_)

    def _turned(self, shape: Shape) -> Chains:
        """The full chains with nothing but the last layers turned into the leading directions."""
        st, ae = (
            d[:count].float()
            for d, count in zip(self.directions, (shape.st_directions, shape.ae_directions), strict=True)
        )
        chains = self._chains
        last, channels = chains.student_last, len(chains.teacher_last.bias)
        halves = (
            replace(last, weight=last.weight[:channels], bias=last.bias[:channels]),
            replace(last, weight=last.weight[channels:], bias=last.bias[channels:]),
        )
        imitations = [_turned_layer(half, rows) for half, rows in zip(halves, (st, ae), strict=True)]
        student = replace(
            last,
            weight=torch.cat([i.weight for i in imitations]),
            bias=torch.cat([i.bias for i in imitations]),
        )
        return replace(
            chains,
            teacher_last=_turned_layer(chains.teacher_last, st),
            autoencoder_last=_turned_layer(chains.autoencoder_last, ae),
            student_last=student,
        )

    def _kept(self, shape: Shape) -> _Kept:
        """The channels of each hidden layer that stay."""
        shared, chains = len(self._trunk), self._chains
        st, ae = (d.float() for d in self.directions)
        level_st, level_ae = (n**0.5 for n in self.normal)
        last, channels = chains.student_last.weight, len(chains.teacher_last.bias)
        of_teacher = [_turned_weight(chains.teacher_last.weight, st) / level_st]
        of_student = [
            _turned_weight(last[:channels], st) / level_st,
            _turned_weight(last[channels:], ae) / level_ae,
        ]
        teacher, above_t = kept_channels(self._teacher, shape.teacher[shared:], of_teacher)
        student, above_s = kept_channels(self._student, shape.student, of_student)
        trunk, _ = kept_channels(self._trunk, shape.teacher[:shared], [*above_t, *above_s])
        return _Kept(trunk, teacher, student)

    def _refit_last(
        self, chains: Chains, shape: Shape, ts: list[Tensor], ss: list[Tensor], as_: list[Tensor]
    ) -> Chains:
        """Last layers that give the leading directions of both differences; those given are the first guess."""
        self._status("fit the differences")
        t, s, a = chains.teacher_last, chains.student_last, chains.autoencoder_last
        st, ae = shape.st_directions, shape.ae_directions
        t_first, s_first, a_first = (layer.weight.flatten(1) for layer in (t, s, a))
        t_size, s_size, a_size = (w.shape[1] for w in (t_first, s_first, a_first))
        systems = [LeastSquares(t_size + s_size, st), LeastSquares(a_size + s_size, ae)]
        for seen, xt, xs, xa in zip(self._seen, ts, ss, as_, strict=True):
            places = seen.places
            pt, ps, pa = patches(t, xt, places), patches(s, xs, places), patches(a, xa, places)
            both = zip(systems, (pt, pa), self._wanted(seen, shape), self.normal, strict=True)
            for system, own, wanted, normal in both:
                target = wanted[0][:, places[:, 0], places[:, 1]].T
                weight = 1 / (target.square().sum(1) + normal)
                system.add(torch.cat((own, ps), 1), target, weight)
        st_w, st_b = systems[0].solve(torch.cat((t_first, -s_first[:st]), 1))
        ae_w, ae_b = systems[1].solve(torch.cat((a_first, -s_first[st:]), 1))
        student = torch.cat((-st_w[:, t_size:], -ae_w[:, a_size:]))
        return replace(
            chains,
            teacher_last=with_weights(t, st_w[:, :t_size], st_b),
            student_last=with_weights(s, student, torch.zeros(st + ae)),
            autoencoder_last=with_weights(a, ae_w[:, :a_size], ae_b),
        )


def _normal(differences: Sequence[Differences]) -> tuple[float, float]:
    """The median squared norm of each difference on good parts."""
    st, ae = (
        float(torch.cat([d[i].float().square().sum(1).flatten() for d in differences]).median())
        for i in range(2)
    )
    return max(st, 1e-12), max(ae, 1e-12)


def _directions(
    differences: Sequence[Differences], normal: tuple[float, float]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Principal directions of both differences, at most :data:`MAX_DIRECTIONS` rows, and the energy's shares.

    Each place counts relative to its own norm, as a relative error of the map does.
    """
    found = []
    for i, level in enumerate(normal):
        moments = Moments(differences[0][i].shape[1])
        for d in differences:
            flat = d[i].float()[0].flatten(1).T
            moments.add(flat, 1 / (flat.square().sum(1) + level))
        rows, shares = principal(moments.second)
        found.append((rows[:MAX_DIRECTIONS], shares))
    return (found[0][0], found[1][0]), (found[0][1], found[1][1])


def _turned_layer(layer: ConvLayer, rows: Tensor) -> ConvLayer:
    """The layer with its outputs projected on ``float32 RxC`` rows."""
    return replace(layer, weight=_turned_weight(layer.weight, rows), bias=rows @ layer.bias)


def _turned_weight(weight: Tensor, rows: Tensor) -> Tensor:
    return torch.einsum("rc,cikl->rikl", rows, weight)


def _turn(difference: Tensor, directions: Tensor) -> Tensor:
    return torch.einsum("rc,nchw->nrhw", directions.float(), difference)


def _scaled(chains: Chains, st: float, ae: float) -> Chains:
    """The chains with both differences multiplied."""
    rows = len(chains.teacher_last.bias)
    factors = torch.cat((torch.full((rows,), st), torch.full((len(chains.autoencoder_last.bias),), ae)))
    s = chains.student_last
    return replace(
        chains,
        teacher_last=_times(chains.teacher_last, factors[:rows]),
        autoencoder_last=_times(chains.autoencoder_last, factors[rows:]),
        student_last=_times(s, factors),
    )


def _times(layer: ConvLayer, factors: Tensor) -> ConvLayer:
    return replace(layer, weight=layer.weight * factors[:, None, None, None], bias=layer.bias * factors)
