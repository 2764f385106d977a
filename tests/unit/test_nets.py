"""The networks: sizes against the published figures, shapes, the student's shared layers."""

from __future__ import annotations

import pytest
import torch

from edge_ad.describe import describe
from edge_ad.nets.architecture import SIZES, architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad.nets.pdn import map_size
from edge_ad_converters.cost import gmac
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_runtime.errors import InputError

S_GMAC = 37.98


@pytest.mark.parametrize(("size", "parameters"), [("s", 8.06e6), ("m", 20.7e6)])
def test_paper_sizes_have_the_published_parameters(size: str, parameters: float) -> None:
    nets = EfficientAdNets(architecture(size), (256, 256))
    assert sum(p.numel() for p in nets.parameters()) == pytest.approx(parameters, rel=0.005)


@pytest.mark.parametrize(("size", "published"), [("s", S_GMAC), ("m", 117.7)])
def test_paper_sizes_cost_what_is_published(size: str, published: float) -> None:
    with torch.device("meta"):
        nets = EfficientAdNets(architecture(size), (256, 256))
    macs = 0

    def count(module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, torch.nn.Conv2d)
        macs += output[0].numel() * module.weight[0].numel()

    for module in nets.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    nets.eval()(torch.empty(1, 3, 256, 256, device="meta"))
    assert macs / 1e9 == pytest.approx(published, rel=0.005)


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
