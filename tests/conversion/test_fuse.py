"""The fused graph: every folding is exact, for every size, on a real photograph and on noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import skimage.data
import torch

from edge_ad.describe import describe
from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_runtime.preprocess import resize
from edge_ad_runtime.types import Image


def random_nets(size: str, padded: bool = False, input_size: tuple[int, int] = (256, 256)) -> EfficientAdNets:
    torch.manual_seed(5)
    nets = EfficientAdNets(architecture(size), input_size, padded).eval()
    nets.teacher_mean.normal_()
    nets.teacher_std.uniform_(0.05, 0.3)
    return nets


def photograph(height: int = 256, width: int = 256) -> Image:
    grey = skimage.data.brick()  # type: ignore[no-untyped-call]
    return resize(np.repeat(grey[:, :, None], 3, axis=2), height, width)[None]


def deviation(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(a)).max())


@pytest.mark.parametrize(
    ("size", "padded", "input_size"),
    [("n", False, (256, 256)), ("n", True, (256, 256)), ("n", False, (256, 384)), ("s", False, (256, 256)),
     ("m", False, (256, 256))],
)  # fmt: skip
def test_fused_equals_plain(size: str, padded: bool, input_size: tuple[int, int]) -> None:
    nets = random_nets(size, padded, input_size)
    fused = fuse(describe(nets))
    noise = np.random.default_rng(0).integers(0, 256, (1, *input_size, 3), dtype=np.uint8)
    for image in (photograph(*input_size), noise):
        with torch.inference_mode():
            plain = nets(normalize(to_tensor(image)))
            joined = fused(torch.from_numpy(image))
        for a, b in zip(plain, joined, strict=True):
            assert a.shape == b.shape
            assert deviation(a, b) < 1e-5


def test_exported_graph_computes_the_same_in_onnxruntime() -> None:
    nets = random_nets("n")
    model = export_onnx(fuse(describe(nets)))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = photograph()
    with torch.inference_mode():
        plain = nets(normalize(to_tensor(image)))
    for a, b in zip(plain, session.run(["map_st", "map_ae"], {"image": image}), strict=True):
        assert deviation(a, b) < 1e-5
    paths = [p for node in model.graph.node for p in node.metadata_props]
    assert not paths, "the exporter's notes on source files must not travel in a bundle"


def test_no_two_large_tensors_are_subtracted() -> None:
    model = export_onnx(fuse(describe(random_nets("n"))))
    assert not [n for n in model.graph.node if n.op_type in ("Sub", "Add")]


def test_a_wrong_fold_would_be_seen() -> None:
    """The comparison is sharp enough: one bias off by a hundredth of the output's scale fails it."""
    nets = random_nets("n")
    fused = fuse(describe(nets))
    image = photograph()
    with torch.inference_mode():
        plain = nets(normalize(to_tensor(image)))
        bias = fused.difference_st.bias
        assert bias is not None
        bias[0] += 1e-2 * plain[0].max().sqrt()
        assert deviation(plain[0], fused(torch.from_numpy(image))[0]) > 1e-5
