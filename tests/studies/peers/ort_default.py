"""onnxruntime's own quantizer: ``quant_pre_process``, then ``quantize_static`` with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static

from edge_ad.nets.model import EfficientAdNets
from edge_ad_runtime.types import FloatArray
from tests.studies.peers.models import Made, Model
from tests.studies.peers.plain import INPUT, export_plain


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: Sequence[FloatArray]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> dict[str, FloatArray] | None:
        value = next(self._left, None)
        return None if value is None else {INPUT: value}


def make(nets: EfficientAdNets, calibration: Sequence[FloatArray], folder: Path) -> Made:
    """The plain graph in float, quantized with all defaults, and with weights by channel beside them."""
    source, prepared = folder / "plain-ort.onnx", folder / "plain-ort-prepared.onnx"
    onnx.save(export_plain(nets), source)
    models = [_model("plain fp32, ort", source, "torch.onnx", "fp32")]
    quant_pre_process(source, prepared)
    version = f"onnxruntime.quantization {onnxruntime.__version__}"
    variants: tuple[tuple[str, dict[str, Any]], ...] = (
        ("defaults", {}),
        ("per_channel", {"per_channel": True}),
    )
    for name, options in variants:
        path = folder / f"plain-ort-{name}.onnx"
        quantize_static(prepared, path, _Reader(calibration), **options)
        models.append(_model(f"plain int8, ort, {name}", path, version, "int8"))
    return Made(tuple(models))


def _model(name: str, path: Path, tool: str, precision: Any) -> Model:
    return Model(
        name=name, graph="plain", engine="ort", precision=precision, tool=tool, file=path.name,
        bytes=path.stat().st_size,
    )  # fmt: skip
