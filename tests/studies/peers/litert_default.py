"""LiteRT's own tools: ``litert-torch`` for the graph, ``ai-edge-quantizer`` with its static INT8 recipe."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import litert_torch  # type: ignore[import-not-found,unused-ignore]
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-not-found,unused-ignore]

from edge_ad.nets.model import EfficientAdNets
from edge_ad_runtime.types import FloatArray
from tests.studies.peers.models import Made, Model
from tests.studies.peers.plain import example, plain_nets


def make(nets: EfficientAdNets, calibration: Sequence[FloatArray], folder: Path) -> Made:
    """The plain graph in float and in static INT8."""
    source, target = folder / "plain-litert.tflite", folder / "plain-litert-int8.tflite"
    litert_torch.convert(plain_nets(nets), (example(nets),)).export(str(source))
    signature, names = next(iter(Interpreter(str(source)).get_signature_list().items()))
    quantize = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    ranges = quantize.calibrate({signature: [{names["inputs"][0]: value} for value in calibration]})
    target.unlink(missing_ok=True)
    quantize.quantize(ranges).export_model(str(target))
    torch_tool = f"litert-torch {version('litert-torch')}"
    return Made(
        (
            _model("plain fp32, litert", source, torch_tool, "fp32"),
            _model(
                "plain int8, litert, static_wi8_ai8", target,
                f"{torch_tool}, ai-edge-quantizer {version('ai-edge-quantizer')}", "int8",
            ),
        )
    )  # fmt: skip


def _model(name: str, path: Path, tool: str, precision: Any) -> Model:
    return Model(
        name=name, graph="plain", engine="tflite", precision=precision, tool=tool, file=path.name,
        bytes=path.stat().st_size,
    )  # fmt: skip
