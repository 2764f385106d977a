"""A fused variant as each engine's INT8 file, quantized quickly: the time does not depend on the ranges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from edge_ad_converters.description import NetsDescription
from edge_ad_converters.fuse import fuse
from edge_ad_converters.graph import convolutions, parts
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.onnx_qdq import quantize_onnx
from edge_ad_converters.ranges import find_range, observe
from edge_ad_converters.targets import target_form
from edge_ad_runtime.types import Image
from tests.studies.compression.cost import Cost, onnx_cost
from tests.studies.peers.models import EngineName, Made, Model

ENGINES: tuple[EngineName, ...] = ("ort", "openvino", "tflite")


def quick_int8(model: onnx.ModelProto, batches: Sequence[Image]) -> onnx.ModelProto:
    """All layers in INT8 with min-max ranges over ``uint8 1xHxWx3`` batches."""
    rounded = list(parts(model))
    statistics = observe(model, [*rounded, *(n.input[0] for n in convolutions(model))], batches)
    ranges = {name: find_range(statistics[name], "min-max") for name in rounded}
    return quantize_onnx(model, ranges, {name: s.channel_mean for name, s in statistics.items()})


def make(nets: NetsDescription, batches: Sequence[Image], folder: Path) -> tuple[Made, Cost]:
    """Quantize the fused graph and write it for each engine."""
    graph = export_onnx(fuse(nets))
    return write_graph(quick_int8(graph, batches), folder, "edge-ad, quick ranges"), onnx_cost(graph)


def write_graph(quantized: onnx.ModelProto, folder: Path, tool: str) -> Made:
    """The QDQ graph in each engine's form."""
    models = []
    for engine in ENGINES:
        form = target_form(engine)
        path = folder / f"{engine}-{form.file}"
        path.write_bytes(form.encode(quantized))
        models.append(
            Model(
                name=f"ours int8, {engine}",
                graph="bare",
                engine=engine,
                precision="int8",
                tool=tool,
                file=path.name,
                bytes=path.stat().st_size,
            )
        )
    return Made(tuple(models))
