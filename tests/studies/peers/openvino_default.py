"""OpenVINO's own quantizer: ``nncf.quantize`` with its defaults, and with the preset that it offers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nncf  # type: ignore[import-not-found,unused-ignore]
import onnx
import openvino as ov

from edge_ad.nets.model import EfficientAdNets
from edge_ad_runtime.types import FloatArray
from tests.studies.peers.models import Made, Model
from tests.studies.peers.plain import export_plain

# Where the processor has bfloat16, OpenVINO takes it for the float parts unless told otherwise.
_SETTINGS: tuple[tuple[str, dict[str, str]], ...] = (
    ("", {}),
    (", f32 hint", {"INFERENCE_PRECISION_HINT": "f32"}),
)


def make(nets: EfficientAdNets, calibration: Sequence[FloatArray], folder: Path) -> Made:
    """The plain graph in float, and quantized by each preset."""
    source = folder / "plain-openvino.onnx"
    onnx.save(export_plain(nets), source)
    plain = ov.convert_model(source)
    path = folder / "plain-openvino.xml"
    ov.save_model(plain, path)
    models = _models("plain fp32, openvino", path, f"openvino {_version(ov)}", "fp32")
    for name, options in (("defaults", {}), ("preset mixed", {"preset": nncf.QuantizationPreset.MIXED})):
        quantized = nncf.quantize(plain, nncf.Dataset(list(calibration)), **options)
        path = folder / f"plain-nncf-{name.replace(' ', '-')}.xml"
        ov.save_model(quantized, path)
        models += _models(f"plain int8, openvino, {name}", path, f"nncf {_version(nncf)}", "int8")
    return Made(tuple(models))


def _version(module: Any) -> str:
    return str(module.__version__).split("-")[0]


def _models(name: str, path: Path, tool: str, precision: Any) -> list[Model]:
    size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    return [
        Model(
            name=name + suffix, graph="plain", engine="openvino", precision=precision, tool=tool,
            file=path.name, bytes=size, settings=settings,
        )
        for suffix, settings in _SETTINGS
    ]  # fmt: skip
