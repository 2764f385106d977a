"""Compression of described nets: what is exact is exact, and what is fitted is close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from edge_ad.describe import describe
from edge_ad.nets.model import normalize, to_tensor
from edge_ad_converters.compress import (
    CompressionImages,
    Compressor,
    full_shape,
    ladder,
    shape_for,
    shape_gmac,
)
from edge_ad_converters.compress.chains import Chains, chains_of
from edge_ad_converters.compress.layers import normalized
from edge_ad_converters.compress.moments import Moments, principal
from edge_ad_converters.compress.recover import Example, recover
from edge_ad_converters.compress.refit import LeastSquares
from edge_ad_converters.compress.select import choose_channels, readers_energy
from edge_ad_converters.compress.shape import description_gmac
from edge_ad_converters.cost import gmac
from edge_ad_converters.description import ConvLayer, NetsDescription
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.stress import stress_images
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image
from tests.conversion.graphs import float_graph, photographs
from tests.conversion.test_fuse import random_nets

GOOD = photographs(3)
IMAGES = CompressionImages(GOOD, stress_images(GOOD[:2], 1), stress_images(GOOD[:1], 2))
UNSEEN = photographs(1, seed=9)[0]


@cache
def described(size: str = "n", padded: bool = False) -> NetsDescription:
    """Of random nets, the teacher normalized as training does it, so that the maps are not one large offset."""
    nets = random_nets(size, padded)
    with torch.no_grad():
        raw = nets.teacher_raw(nets.trunk(normalize(to_tensor(GOOD[0]))))
        nets.teacher_mean.copy_(raw.mean((0, 2, 3)).view(1, -1, 1, 1))
        nets.teacher_std.copy_(raw.std((0, 2, 3)).view(1, -1, 1, 1))
    return describe(nets)


@cache
def compressor(padded: bool = False) -> Compressor:
    return Compressor(described("n", padded), IMAGES, seed=3)


def maps(nets: NetsDescription, image: Image = UNSEEN) -> list[npt.NDArray[np.float32]]:
    with torch.inference_mode():
        return [m.numpy() for m in fuse(nets)(torch.from_numpy(image))]


def correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("padded", [False, True])
def test_all_directions_give_the_same_maps(padded: bool) -> None:
    made = compressor(padded)
    for a, b in zip(maps(made.nets), maps(made.compress(made.full, 0)), strict=True):
        assert np.abs(a - b).max() < 1e-4 * a.max()


def test_fewer_directions_drop_energy_and_nothing_else() -> None:
    made = compressor()
    shape = replace(made.full, st_directions=24, ae_directions=8)
    st, ae = maps(made.compress(shape, 0))
    full_st, full_ae = maps(made.nets)
    assert (st <= full_st * 1.0001).all() and (ae <= full_ae * 1.0001).all()
    assert 0 < st.mean() < full_st.mean()


@pytest.mark.parametrize(("size", "padded"), [("n", False), ("n", True), ("s", False)])
def test_arithmetic_is_counted_as_the_exported_graph_has_it(size: str, padded: bool) -> None:
    model = float_graph(size, padded)
    assert description_gmac(described(size, padded)) == pytest.approx(gmac(model))


def test_a_compressed_graph_has_the_arithmetic_of_its_shape() -> None:
    made = compressor()
    shape = replace(made.full, teacher=(32, 64, 80), student=(80,), st_directions=32, ae_directions=16)
    assert gmac(export_onnx(fuse(made.compress(shape, 0)))) == pytest.approx(shape_gmac(made.nets, shape))


def test_channels_that_say_nothing_new_are_cut_without_loss() -> None:
    """The nets' own channels twice, each reader with half of the weight for each copy: half of them do."""
    nets = described()
    twice = _doubled(nets)
    for a, b in zip(maps(nets), maps(twice), strict=True):
        assert np.abs(a - b).max() < 1e-4 * a.max()
    shape = replace(full_shape(nets), st_directions=64, ae_directions=64)
    cut = Compressor(twice, IMAGES, seed=3).compress(shape, 0)
    assert description_gmac(cut) == pytest.approx(description_gmac(nets))
    for image in (UNSEEN, IMAGES.damaged[0]):
        for a, b in zip(maps(nets, image), maps(cut, image), strict=True):
            assert correlation(a, b) > 0.999
            assert np.abs(a - b).mean() < 0.02 * a.mean()


def test_recovery_comes_closer_to_the_wanted_differences() -> None:
    nets = compressor().compress(replace(compressor().full, teacher=(16, 32, 48), student=(48,)), 0)
    chains, whole = chains_of(nets), chains_of(described())
    wide = replace(described(), teacher_mean=torch.zeros(64), teacher_std=torch.ones(64))
    images = [normalized(wide, torch.from_numpy(i)) for i in (GOOD[0], IMAGES.damaged[0])]
    with torch.no_grad():
        examples = [Example(i, whole.differences(whole.features(i))) for i in images]

    def error(chains: Chains) -> float:
        with torch.no_grad():
            found = [chains.differences(chains.features(e.image)) for e in examples]
        pairs = [
            (a, b) for f, e in zip(found, examples, strict=True) for a, b in zip(f, e.wanted, strict=True)
        ]
        return sum(float((a - b).square().sum() / b.square().sum()) for a, b in pairs)

    recovered = recover(chains, examples, (1.0, 1.0), 20, 1, lambda _: None)
    assert error(recovered) < 0.9 * error(chains)


def test_a_shorter_decoder_is_fitted_to_the_longer_one() -> None:
    made = compressor()
    assert made.full.decoder_steps == 4
    short = made.compress(replace(made.full, decoder_steps=3), 0)
    assert description_gmac(short) < description_gmac(made.nets)
    (st, ae), (full_st, full_ae) = maps(short, GOOD[0]), maps(made.nets, GOOD[0])
    assert correlation(st, full_st) > 0.99 and correlation(ae, full_ae) > 0.9


def test_the_same_seed_gives_the_same_nets() -> None:
    shape = replace(full_shape(described()), teacher=(16, 48, 80), student=(80,))
    a, b = (Compressor(described(), IMAGES, seed=5).compress(shape, 3) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(_weights(a), _weights(b), strict=True))


def test_the_full_nets_are_left_as_they_are() -> None:
    before = [w.clone() for w in _weights(described())]
    made = compressor()
    made.compress(replace(made.full, teacher=(16, 32, 48), student=(48,)), 2)
    assert all(torch.equal(x, y) for x, y in zip(before, _weights(described()), strict=True))


@pytest.mark.parametrize("size", ["n", "s", "m"])
def test_the_ladder_falls_and_never_exceeds_the_nets(size: str) -> None:
    nets = described(size)
    channels = len(nets.teacher_mean)
    falling = torch.tensor([0.9**i for i in range(channels)], dtype=torch.double)
    energy = (falling / falling.sum(),) * 2
    shapes = ladder(nets, energy)
    costs = [shape_gmac(nets, s) for s in shapes]
    whole = description_gmac(nets)
    assert whole > costs[0] and costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.25 * whole
    assert all(s.label(full_shape(nets)) != "full" for s in shapes)
    for fraction in (0.8, 0.5, 0.25):
        assert shape_gmac(nets, shape_for(nets, fraction, energy)) <= fraction * whole
    with pytest.raises(InputError, match="is the least"):
        shape_for(nets, 0.001, energy)
    for wrong in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            shape_for(nets, wrong, energy)


def test_a_steep_spectrum_needs_fewer_directions_than_a_flat_one() -> None:
    nets = described("s")
    flat = torch.full((384,), 1 / 384, dtype=torch.double)
    steep = torch.tensor([0.5**i for i in range(384)], dtype=torch.double)
    cheap = ladder(nets, (steep / steep.sum(), steep / steep.sum()))
    dear = ladder(nets, (flat, flat))
    assert max(s.st_directions for s in cheap) <= 16 < max(s.st_directions for s in dear)


def test_bad_shapes_and_images_are_refused() -> None:
    made = compressor()
    with pytest.raises(InputError, match="widths of the teacher"):
        made.compress(replace(made.full, teacher=(32, 96)))
    with pytest.raises(InputError, match="directions"):
        made.compress(replace(made.full, st_directions=65))
    with pytest.raises(InputError, match="decoder steps"):
        made.compress(replace(made.full, decoder_steps=0))
    with pytest.raises(InputError, match="good images"):
        Compressor(described(), CompressionImages([], [], []), seed=1)


def test_principal_directions_are_those_of_the_largest_energy() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(5000, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1])
    moments = Moments(3)
    moments.add(samples[:2000])
    moments.add(samples[2000:])
    rows, shares = principal(moments.second)
    assert rows[0].abs().argmax() == 1 and rows[2].abs().argmax() == 2
    assert torch.allclose(rows @ rows.T, torch.eye(3, dtype=torch.double), atol=1e-9)
    assert shares[0] == pytest.approx(25 / 26.01, abs=0.01) and float(shares.sum()) == pytest.approx(1)


def test_weights_count_a_sample_as_often_as_they_say() -> None:
    samples = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    weighted, repeated = Moments(2), Moments(2)
    weighted.add(samples, torch.tensor([1.0, 3.0]))
    repeated.add(samples[[0, 1, 1, 1]])
    assert torch.allclose(weighted.second, repeated.second)
    assert torch.allclose(weighted.covariance, repeated.covariance)


def test_one_of_each_pair_of_equal_channels_is_chosen() -> None:
    generator = torch.Generator().manual_seed(1)
    own = torch.randn(1000, 4, generator=generator)
    moments = Moments(8)
    moments.add(torch.cat((own, 2 * own), 1))
    reader = torch.randn(5, 8, 1, 1, generator=generator)
    chosen = choose_channels(moments.covariance, readers_energy([reader]), 4)
    assert sorted((chosen % 4).tolist()) == [0, 1, 2, 3]
    assert chosen.tolist() == sorted(chosen.tolist())


def test_channels_nobody_reads_go_first() -> None:
    generator = torch.Generator().manual_seed(2)
    moments = Moments(4)
    moments.add(torch.randn(1000, 4, generator=generator) * torch.tensor([9.0, 1.0, 1.0, 1.0]))
    reader = torch.tensor([0.0, 1.0, 0.0, 2.0]).view(1, 4, 1, 1)
    assert choose_channels(moments.covariance, readers_energy([reader]), 2).tolist() == [1, 3]


def test_least_squares_find_the_affine_map() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(3, 10, generator=generator), torch.randn(3, generator=generator)
    system = LeastSquares(10, 3)
    for _ in range(3):
        x = torch.randn(200, 10, generator=generator)
        system.add(x, x @ weight.T + bias, torch.rand(200, generator=generator))
    found, offset = system.solve()
    assert torch.allclose(found, weight, atol=5e-3) and torch.allclose(offset, bias, atol=5e-3)


def _doubled(nets: NetsDescription) -> NetsDescription:
    def chain(layers: Sequence[ConvLayer], first: bool) -> tuple[ConvLayer, ...]:
        found = []
        for i, layer in enumerate(layers):
            weight, bias = layer.weight, layer.bias
            if not (first and i == 0):
                weight = torch.cat((weight, weight), 1) / 2
            if i < len(layers) - 1:
                weight, bias = torch.cat((weight, weight)), torch.cat((bias, bias))
            found.append(replace(layer, weight=weight, bias=bias))
        return tuple(found)

    return replace(nets, teacher=chain(nets.teacher, True), student=chain(nets.student, not nets.shared))


def _weights(nets: NetsDescription) -> list[Tensor]:
    layers = [*nets.teacher, *nets.student, *nets.encoder, *(s.layer for s in nets.decoder)]
    return [t for layer in layers for t in (layer.weight, layer.bias)]
