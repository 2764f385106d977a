"""Fused graphs of random nets, each exported once for all tests, and images for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch

from edge_ad.describe import describe
from edge_ad.nets.model import normalize, to_tensor
from edge_ad_converters.fuse import fuse
from edge_ad_converters.graph import activations, convolutions
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.onnx_qdq import Scheme, quantize_onnx
from edge_ad_converters.ranges import Statistics, find_range, observe
from edge_ad_runtime.engines import RawMaps, open_engine
from edge_ad_runtime.types import Image
from tests.conversion.test_fuse import photograph, random_nets


@cache
def float_graph(size: str = "n", padded: bool = False, centred: bool = False) -> onnx.ModelProto:
    """Of random nets, the teacher normalized as training does it, so that the maps are not one large offset."""
    nets = random_nets(size, padded)
    with torch.no_grad():
        raw = nets.teacher_raw(nets.trunk(normalize(to_tensor(photograph()))))
        nets.teacher_mean.copy_(raw.mean((0, 2, 3)).view(1, -1, 1, 1))
        nets.teacher_std.copy_(raw.std((0, 2, 3)).view(1, -1, 1, 1))
    return export_onnx(fuse(describe(nets), centred))


def photographs(count: int, seed: int = 0) -> list[Image]:
    """The same wall, seen from elsewhere in another light."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        shifted = np.roll(photograph(), tuple(generator.integers(0, 256, 2)), (1, 2))
        lit = shifted * generator.uniform(0.8, 1.1, (1, 1, 1, 3)) + generator.normal(0, 3, shifted.shape)
        found.append(np.clip(lit, 0, 255).astype(np.uint8))
    return found


@dataclass(frozen=True)
class Observed:
    """What a quantization needs to know of a graph."""

    statistics: Mapping[str, Statistics]
    ranges: dict[str, tuple[float, float]]
    means: dict[str, npt.NDArray[np.float64]]


def observed(model: onnx.ModelProto, images: Sequence[Image]) -> Observed:
    statistics = observe(model, [*activations(model), *(n.input[0] for n in convolutions(model))], images)
    return Observed(
        statistics,
        {name: find_range(statistics[name], "min-max") for name in activations(model)},
        {name: s.channel_mean for name, s in statistics.items()},
    )


def quantized(
    model: onnx.ModelProto,
    found: Observed,
    scheme: Scheme = "asymmetric",
    in_float: Collection[str] = (),
) -> onnx.ModelProto:
    return quantize_onnx(model, found.ranges, found.means, scheme=scheme, in_float=in_float)


def maps(model: onnx.ModelProto, image: Image) -> RawMaps:
    """In the engine of the target ort."""
    return open_engine("ort", model.SerializeToString(), "int8", 1).run(image)


def unoptimized_maps(model: onnx.ModelProto, image: Image) -> RawMaps:
    """In onnxruntime as the graph is written, operator by operator."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    st, ae = session.run(["map_st", "map_ae"], {"image": image})
    return RawMaps(st[0], ae[0])
