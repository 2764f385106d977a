"""Compression of described nets: choose, refit, recover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from edge_ad_converters.compress.chains import Chains, Differences, chains_of, described
from edge_ad_converters.compress.layers import activate, convolve, normalized, patches, resized
from edge_ad_converters.compress.moments import Moments, principal
from edge_ad_converters.compress.recover import RECOVERY_STEPS, Example, recover
from edge_ad_converters.compress.refit import LeastSquares, rewritten, with_weights
from edge_ad_converters.compress.select import choose_channels, readers_energy, reconstruction
from edge_ad_converters.compress.shape import MAX_DIRECTIONS, Shape, check_shape, full_shape
from edge_ad_converters.description import ConvLayer, NetsDescription
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

# Places of each image that least squares see; neighbours tell little more.
_PLACES = 200


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
    """One image: sampled targets of each hidden layer, and the differences in their leading directions.

    ``targets`` are pre-activations ``float32 PxC`` at ``places`` (``int64 Px2``), by the layer's name.
    """

    image: Tensor
    places: dict[str, Tensor]
    targets: dict[str, Tensor]
    differences: Differences


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
        self._chains, self._status, self._seed = chains_of(nets), status, seed
        self._generator = torch.Generator().manual_seed(seed)
        self._covariance = {name: Moments(len(layer.bias)) for name, layer in _hidden(self._chains)}
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
        self._status(f"compress: look at {which}")
        chains, image = self._chains, normalized(self.nets, torch.from_numpy(picture.copy()))
        places: dict[str, Tensor] = {}
        targets: dict[str, Tensor] = {}

        def pass_through(name: str, layer: ConvLayer, x: Tensor) -> Tensor:
            y = convolve(layer, x)
            places[name] = self._places(y)
            targets[name] = y[0][:, places[name][:, 0], places[name][:, 1]].T.contiguous()
            x = activate(layer, y)
            self._covariance[name].add(x[0].flatten(1).T)
            return x

        x = image
        for i, layer in enumerate(chains.trunk):
            x = pass_through(f"trunk{i}", layer, x)
        teacher = student = x
        for i, layer in enumerate(chains.teacher):
            teacher = pass_through(f"teacher{i}", layer, teacher)
        for i, layer in enumerate(chains.student):
            student = pass_through(f"student{i}", layer, student)
        x = image
        for layer in chains.encoder:
            x = activate(layer, convolve(layer, x))
        for step in chains.steps[:-1]:
            x = activate(step.layer, convolve(step.layer, resized(step, x)))
        x = pass_through("decoder", chains.steps[-1].layer, resized(chains.steps[-1], x))
        st = convolve(chains.teacher_last, teacher)
        imitated = convolve(chains.student_last, student)
        ae = convolve(chains.autoencoder_last, x)
        channels = st.shape[1]
        places["last"] = self._places(st)
        found = Differences(st - imitated[:, :channels], ae - imitated[:, channels:])
        return _Seen(image, places, targets, Differences(*(d.half() for d in found)))

    def _places(self, y: Tensor) -> Tensor:
        height, width = y.shape[2:]
        count = min(_PLACES, height * width)
        flat = torch.randperm(height * width, generator=self._generator)[:count]
        return torch.stack((flat // width, flat % width), 1)

    def _fitted(self, shape: Shape) -> Chains:
        turned = self._turned(shape)
        narrow = replace(shape, st_directions=self.full.st_directions, ae_directions=self.full.ae_directions)
        if narrow == self.full:
            # The features stay as they are: dropping directions is exact.
            return turned
        chains, kept = self._chains, self._kept(shape)
        images = [s.image for s in self._seen]
        trunk, xs, made = self._refit_chain("trunk", chains.trunk, kept, images, None)
        teacher, ts, made_t = self._refit_chain("teacher", chains.teacher, kept, xs, made)
        student, ss, made_s = self._refit_chain("student", chains.student, kept, xs, made)
        del xs
        steps = (*chains.steps[: shape.decoder_steps], chains.steps[-1])
        short = replace(chains, steps=steps[:-1])
        last = steps[-1]
        inputs = [resized(last, short.decoded(image)) for image in images]
        shorter = shape.decoder_steps < self.full.decoder_steps
        if shorter:
            last = replace(last, layer=self._refit("decoder", last.layer, inputs))
        as_ = [activate(last.layer, convolve(last.layer, x)) for x in inputs]
        found = replace(
            turned,
            trunk=trunk,
            teacher=teacher,
            student=student,
            steps=(*steps[:-1], last),
            teacher_last=_read_through(turned.teacher_last, made_t),
            student_last=_read_through(turned.student_last, made_s),
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

    def _kept(self, shape: Shape) -> dict[str, Tensor]:
        """The channels of each hidden layer that stay."""
        chains, shared = self._chains, len(self._chains.trunk)
        widths = {
            **{f"trunk{i}": w for i, w in enumerate(shape.teacher[:shared])},
            **{f"teacher{i}": w for i, w in enumerate(shape.teacher[shared:])},
            **{f"student{i}": w for i, w in enumerate(shape.student)},
        }
        readers = self._readers(chains)
        return {
            name: choose_channels(self._covariance[name].covariance, readers_energy(readers[name]), width)
            for name, width in widths.items()
        }

    def _readers(self, chains: Chains) -> dict[str, list[Tensor]]:
        """The weights that read each hidden layer, in units in which their outputs compare."""
        found: dict[str, list[Tensor]] = {}
        st, ae = (
            torch.einsum("rc,cikl->rikl", d.float(), w) / n**0.5
            for d, w, n in zip(
                self.directions,
                torch.tensor_split(chains.student_last.weight, [len(self.directions[0][0])]),
                self.normal,
                strict=True,
            )
        )
        teacher = torch.einsum("rc,cikl->rikl", self.directions[0].float(), chains.teacher_last.weight)
        ends = {"teacher": [teacher / self.normal[0] ** 0.5], "student": [st, ae]}
        for chain, layers in (("teacher", chains.teacher), ("student", chains.student)):
            readers = ends[chain]
            for i in reversed(range(len(layers))):
                found[f"{chain}{i}"] = readers
                readers = [self._comparable(f"{chain}{i}", layers[i])]
            ends[chain] = readers
        readers = ends["teacher"] + ends["student"]
        for i in reversed(range(len(chains.trunk))):
            found[f"trunk{i}"] = readers
            readers = [self._comparable(f"trunk{i}", chains.trunk[i])]
        return found

    def _comparable(self, name: str, layer: ConvLayer) -> Tensor:
        """The layer's weights in units of its outputs' deviation."""
        outputs = torch.cat([s.targets[name] for s in self._seen])
        return layer.weight / outputs.std(0).clamp(min=1e-6)[:, None, None, None]

    def _refit_chain(
        self,
        chain: str,
        layers: Sequence[ConvLayer],
        kept: dict[str, Tensor],
        xs: list[Tensor],
        made: Tensor | None,
    ) -> tuple[tuple[ConvLayer, ...], list[Tensor], Tensor | None]:
        """Narrow a chain and fit each layer to what the layers before it have become.

        ``made`` makes the full nets' channels of those of ``xs``; None says that they are the same. Returns the
        layers, their last outputs and the same for these.
        """
        fitted = []
        for i, layer in enumerate(layers):
            name = f"{chain}{i}"
            channels = kept[name]
            if made is None:
                layer = replace(layer, weight=layer.weight[channels], bias=layer.bias[channels])
            else:
                layer = self._refit(name, _read_through(layer, made), xs, channels)
            if made is not None or len(channels) < len(self._covariance[name].mean):
                made = reconstruction(self._covariance[name].covariance, channels)
            xs = [activate(layer, convolve(layer, x)) for x in xs]
            fitted.append(layer)
        return tuple(fitted), xs, made

    def _refit(
        self,
        name: str,
        layer: ConvLayer,
        xs: Sequence[Tensor],
        channels: Tensor | None = None,
    ) -> ConvLayer:
        """The layer's weights that give its old outputs (those ``channels`` of them) from the inputs as they are.

        With ``channels`` the layer's own weights are the first guess; None takes all outputs and guesses nothing.
        """
        self._status(f"compress: fit {name}")
        kernel = layer.weight.shape[-1]
        rows = torch.arange(len(layer.bias)) if channels is None else channels
        system = LeastSquares(xs[0].shape[1] * kernel**2, len(rows))
        for seen, x in zip(self._seen, xs, strict=True):
            system.add(patches(layer, x, seen.places[name]), seen.targets[name][:, rows])
        first = None if channels is None else layer.weight[rows].flatten(1)
        return with_weights(layer, *system.solve(first))

    def _refit_last(
        self, chains: Chains, shape: Shape, ts: list[Tensor], ss: list[Tensor], as_: list[Tensor]
    ) -> Chains:
        """Last layers that give the leading directions of both differences; those given are the first guess."""
        self._status("compress: fit the differences")
        t, s, a = chains.teacher_last, chains.student_last, chains.autoencoder_last
        st, ae = shape.st_directions, shape.ae_directions
        t_first, s_first, a_first = (layer.weight.flatten(1) for layer in (t, s, a))
        t_size, s_size, a_size = (w.shape[1] for w in (t_first, s_first, a_first))
        systems = [LeastSquares(t_size + s_size, st), LeastSquares(a_size + s_size, ae)]
        for seen, xt, xs, xa in zip(self._seen, ts, ss, as_, strict=True):
            places = seen.places["last"]
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


def _read_through(layer: ConvLayer, made: Tensor | None) -> ConvLayer:
    """The layer for inputs of which ``made`` makes those that it has read so far."""
    return layer if made is None else replace(layer, weight=rewritten(layer.weight, made))


def _hidden(chains: Chains) -> list[tuple[str, ConvLayer]]:
    """The layers whose outputs are looked at, by name."""
    found = [
        (f"{chain}{i}", layer)
        for chain, layers in (
            ("trunk", chains.trunk),
            ("teacher", chains.teacher),
            ("student", chains.student),
        )
        for i, layer in enumerate(layers)
    ]
    return [*found, ("decoder", chains.steps[-1].layer)]


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
    return replace(layer, weight=torch.einsum("rc,cikl->rikl", rows, layer.weight), bias=rows @ layer.bias)


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
