"""The networks: sizes against the published figures, shapes, the student's shared layers."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import onnxruntime as ort
import pytest
import torch

from edge_ad.describe import describe
from edge_ad.nets.architecture import (
    PAPER_AUTOENCODER,
    SIZES,
    Architecture,
    AutoencoderKind,
    architecture,
    autoencoder_spec,
    check_shared_layers,
)
from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad.nets.pdn import map_size
from edge_ad.training.losses import clean_outputs, step_losses
from edge_ad_converters.cost import gmac
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_runtime.errors import InputError

S_GMAC = 37.98


@pytest.mark.parametrize(("size", "parameters"), [("s", 8.06e6), ("m", 20.7e6)])
def test_paper_sizes_have_the_published_parameters(size: str, parameters: float) -> None:
    nets = EfficientAdNets(architecture(size), (256, 256))
    assert sum(p.numel() for p in nets.parameters()) == pytest.approx(parameters, rel=0.005)


def plain_gmac(shape: Architecture) -> float:
    """The multiply-accumulates of the three nets as they are, in units of 1e9."""
    with torch.device("meta"):
        nets = EfficientAdNets(shape, (256, 256))
    macs = 0

    def count(module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, torch.nn.Conv2d)
        macs += output[0].numel() * module.weight[0].numel()

    for module in nets.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    nets.eval()(torch.empty(1, 3, 256, 256, device="meta"))
    return macs / 1e9


@pytest.mark.parametrize(("size", "published"), [("s", S_GMAC), ("m", 117.7)])
def test_paper_sizes_cost_what_is_published(size: str, published: float) -> None:
    assert plain_gmac(architecture(size)) == pytest.approx(published, rel=0.005)


def test_nano_costs_at_most_a_tenth_of_s() -> None:
    nets = EfficientAdNets(architecture("n"), (256, 256)).eval()
    assert gmac(export_onnx(fuse(describe(nets)))) <= S_GMAC / 10


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize(("padded", "cells"), [(False, 56), (True, 64)])
def test_map_size(size: str, padded: bool, cells: int) -> None:
    layers = architecture(size).pdn.layers(8)
    assert map_size(layers, padded, 256, 256) == (cells, cells)


def test_maps_of_a_larger_non_square_input() -> None:
    nets = EfficientAdNets(architecture("n"), (256, 320)).eval()
    with torch.inference_mode():
        st, ae = nets(torch.randn(2, 3, 256, 320))
    assert st.shape == ae.shape == (2, *nets.map_size) == (2, 56, 72)


def test_too_small_inputs_are_refused_with_the_size_named() -> None:
    with pytest.raises(InputError, match="256x192"):
        EfficientAdNets(architecture("n"), (192, 256))
    with pytest.raises(InputError, match="receptive field"):
        map_size(architecture("n").pdn.layers(8), False, 20, 20)


def test_unknown_size_is_named() -> None:
    with pytest.raises(InputError, match="'xl' is unknown"):
        architecture("xl")


def test_nano_student_shares_the_teachers_first_layers() -> None:
    nets = EfficientAdNets(architecture("n"), (256, 256))
    shared = nets.architecture.shared_layers
    assert len(nets.student.convs) == len(nets.teacher.convs) - shared
    image = torch.randn(1, 3, 256, 256)
    whole = nets.teacher(image)
    assert torch.equal(whole, nets.teacher_raw(nets.trunk(image)))


def narrow(size: str) -> Architecture:
    """A size with the same layers, a sixteenth as wide: what holds for its structure is quickly checked."""
    own = architecture(size)
    body = tuple(replace(c, channels=c.channels // 16) for c in own.pdn.body)
    return replace(own, pdn=replace(own.pdn, body=body), teacher_channels=own.teacher_channels // 16)


DEPTHS = [(size, depth) for size in SIZES for depth in range(architecture(size).pdn.hidden_layers + 1)]


@pytest.mark.parametrize(("size", "depth"), DEPTHS)
@pytest.mark.parametrize("padded", [False, True])
def test_every_depth_of_sharing_trains_and_fuses(size: str, depth: int, padded: bool) -> None:
    torch.manual_seed(3)
    nets = EfficientAdNets(replace(narrow(size), shared_layers=depth), (256, 256), padded)
    nets.teacher_mean.normal_(0, 0.02)
    nets.teacher_std.uniform_(0.05, 0.3)
    before = {k: v.clone() for k, v in nets.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in nets.parameters() if p.requires_grad], 1e-3)
    image, augmented, penalty = torch.randn(3, 1, 3, 256, 256)
    losses = step_losses(nets.train(), clean_outputs(nets, image), augmented, penalty, 0.999)
    losses.total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = {k for k, v in nets.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith(("student.", "autoencoder."))}
    assert len(nets.student.convs) == len(nets.teacher.convs) - depth
    fused = fuse(describe(nets.eval()))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    with torch.inference_mode():
        plain, joined = nets(normalize(to_tensor(pixels))), fused(torch.from_numpy(pixels))
    for a, b in zip(plain, joined, strict=True):
        assert (a - b).abs().max() <= 1e-5 * a.max()
    if depth == len(nets.teacher.convs) - 1 and padded:
        # The engine's graph, of the depth at which nothing but the last convolutions differs.
        session = ort.InferenceSession(export_onnx(fused).SerializeToString())
        for a, c in zip(plain, session.run(["map_st", "map_ae"], {"image": pixels}), strict=True):
            assert np.abs(a.numpy() - c).max() <= 1e-5 * float(a.max())


def test_more_shared_layers_than_there_are_is_refused_with_the_numbers() -> None:
    for size, most in (("n", 3), ("s", 3), ("m", 5)):
        check_shared_layers(size, most)
        with pytest.raises(
            InputError, match=f"{most + 1} shared layers: size '{size}' can share 0 to {most},"
        ):
            check_shared_layers(size, most + 1)
    with pytest.raises(InputError, match="-1 shared layers"):
        check_shared_layers("n", -1)


def test_the_light_autoencoder_has_no_large_decoder_steps_and_is_the_default_of_n_alone() -> None:
    for size in SIZES:
        own = architecture(size).autoencoder
        assert autoencoder_spec(size, "paper") == PAPER_AUTOENCODER
        assert (autoencoder_spec(size, "light") == own) == (size == "n")
        assert (autoencoder_spec(size, "paper") == own) == (size != "n")
    full = architecture("s")
    light = replace(full, autoencoder=autoencoder_spec("s", "light"))
    with torch.device("meta"):
        sizes = [EfficientAdNets(x, (256, 256)).autoencoder.sizes for x in (full, light)]
    assert [[height for height, _ in x] for x in sizes] == [[3, 8, 15, 32, 63, 127], [3, 8, 15, 32]]
    # The two steps left out: 4x4 convolutions of 64 to 64 channels on 64x64 and 128x128 cells.
    assert plain_gmac(full) - plain_gmac(light) == pytest.approx(64 * 64 * 16 * (64**2 + 128**2) / 1e9)
    with pytest.raises(InputError, match="autoencoder 'heavy' is unknown; use paper, light"):
        autoencoder_spec("s", cast("AutoencoderKind", "heavy"))
