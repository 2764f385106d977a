"""PaDiM with ResNet-18 as its paper describes it, as ONNX, in float and with an INT8 backbone, for timing.

Source: Defard et al., arXiv 2011.08785, sections 3.1 to 3.3 and 4.2: images of 224x224; the outputs of the
backbone's first three stages, the smaller ones enlarged to the first's 56x56 and joined to 448 channels, of which
100 random ones are kept; for each position a Gaussian, and the Mahalanobis distance to it. ResNet-18 is Table 1 of
arXiv 1512.03385. All weights and Gaussians are random: the time does not depend on them. Two things are in PaDiM's
favour: channels are chosen before they are enlarged, which gives the same values, and what comes after the distances
(enlarging the map, a Gaussian blur) is left out, as it is for the other models.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static
from torch import Tensor, nn

from edge_ad.nets.model import normalize
from edge_ad_converters.cost import gmac
from edge_ad_converters.graph import convolutions
from edge_ad_runtime.types import FloatArray
from tests.studies.compression.cost import Cost
from tests.studies.peers.models import EngineName, Made, Model
from tests.studies.peers.plain import INPUT, OPSET
from tests.studies.peers.runners import PADIM_SIDE as SIDE

OUTPUT = "anomaly_map"
DIRECTIONS = 100
_STAGES = ((64, 1), (128, 2), (256, 2))
# All operators of the backbone that have integer arithmetic; the distance has others and stays in float.
_INTEGER = ["Conv", "Relu", "Add", "MaxPool"]


class Padim(nn.Module):
    """``float32 1x3xSxS`` in 0 to 1, of ``side`` S, to the distances, ``float32 1xhxw``, a quarter of that."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.grid = side // 4
        self.stem = _conv(3, 64, 7, 2)
        self.stages = nn.ModuleList()
        width = 64
        for channels, stride in _STAGES:
            self.stages.append(nn.Sequential(_Block(width, channels, stride), _Block(channels, channels, 1)))
            width = channels
        widths = [channels for channels, _ in _STAGES]
        chosen = torch.randperm(sum(widths))[:DIRECTIONS].sort().values
        first = 0
        for i, channels in enumerate(widths):
            inside = chosen[(chosen >= first) & (chosen < first + channels)] - first
            self.register_buffer(f"chosen{i}", inside)
            first += channels
        places = self.grid**2
        roots = torch.randn(places, DIRECTIONS, DIRECTIONS) / math.sqrt(DIRECTIONS)
        self.register_buffer("precision", roots @ roots.transpose(1, 2))
        self.register_buffer("mean", torch.randn(places, 1, DIRECTIONS))
        self.precision: Tensor
        self.mean: Tensor

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.stem(normalize(image))), 3, 2, padding=1)
        kept = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            features = x.index_select(1, getattr(self, f"chosen{i}"))
            kept.append(F.interpolate(features, size=(self.grid, self.grid), mode="nearest"))
        # One row vector for each position.
        joined = torch.cat(kept, 1).flatten(2).permute(2, 0, 1) - self.mean
        square = ((joined @ self.precision) * joined).sum(2)
        return square.sqrt().view(1, self.grid, self.grid)


class _Block(nn.Module):
    """Two convolutions with a shortcut; batch norms are folded into the convolutions, as every engine does."""

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, channels, 3, stride), _conv(channels, channels, 3, 1)
        self.shortcut = None if stride == 1 and width == channels else _conv(width, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def _conv(width: int, channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width, channels, kernel, stride, padding=kernel // 2)


def export_padim() -> onnx.ModelProto:
    """The float graph, the same at each call."""
    torch.manual_seed(0)
    net = Padim().eval().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net, (torch.zeros(1, 3, SIDE, SIDE),), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
            opset_version=OPSET, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


def padim_cost(model: onnx.ModelProto) -> Cost:
    """Convolutions and distances; parameters are those of the backbone and the Gaussians."""
    sizes = {i.name: math.prod(i.dims) for i in model.graph.initializer}
    used = {name for node in convolutions(model) for name in node.input[1:]}
    places = (SIDE // 4) ** 2
    distances = places * (DIRECTIONS**2 + DIRECTIONS)
    return Cost(gmac(model) + distances / 1e9, sum(sizes[name] for name in used) + distances)


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = _noise()

    def get_next(self) -> dict[str, FloatArray] | None:
        value = next(self._left, None)
        return None if value is None else {INPUT: value}


def _noise() -> Iterator[FloatArray]:
    generator = np.random.default_rng(0)
    for _ in range(4):
        yield generator.random((1, 3, SIDE, SIDE), np.float32)


def make(folder: Path) -> tuple[Made, Cost]:
    """Float, and INT8 by onnxruntime's quantizer with a scale for each channel; OpenVINO reads the same files."""
    model = export_padim()
    source, prepared, target = (folder / f"padim-{name}.onnx" for name in ("fp32", "prepared", "int8"))
    onnx.save(model, source)
    quant_pre_process(source, prepared)
    quantize_static(prepared, target, _Noise(), per_channel=True, op_types_to_quantize=_INTEGER)
    prepared.unlink()
    files: tuple[tuple[Literal["int8", "fp32"], Path], ...] = (("int8", target), ("fp32", source))
    engines: tuple[EngineName, ...] = ("ort", "openvino")
    models = tuple(
        Model(
            name=f"padim {precision}, {engine}", graph="padim", engine=engine, precision=precision,
            tool="torch.onnx, onnxruntime.quantization", file=file.name, bytes=file.stat().st_size,
        )
        for precision, file in files
        for engine in engines
    )  # fmt: skip
    return Made(models), padim_cost(model)
