"""Our bundles, as ``edge-ad convert`` writes them, for each engine that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edge_ad.conversion import ConvertOptions, convert
from edge_ad.run_folder import Run
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.errors import EdgeAdError
from tests.studies.peers.models import EngineName, Made, Model

_ENGINES: tuple[EngineName, ...] = ("ort", "openvino", "tflite")
_PRECISIONS: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")


def make(run: Run, calibration: Path, folder: Path) -> Made:
    """Convert for each engine and precision; a target that is refused or not installed is left out."""
    models, failures = [], []
    for engine in _ENGINES:
        for precision in _PRECISIONS:
            path = folder / f"fused-{engine}-{precision}.edgead"
            try:
                # Forced: a bundle beyond the limits is a result too, and the table shows by how much.
                options = ConvertOptions(target=engine, precision=precision, force=True, sensitivity=False)
                convert(run, calibration, None, path, options)
            except EdgeAdError as error:
                failures.append(f"{engine} {precision}: {error}")
                continue
            models.append(
                Model(
                    name=f"ours {precision}, {engine}",
                    graph="fused",
                    engine=engine,
                    precision=precision,
                    tool="edge-ad convert",
                    file=path.name,
                    bytes=len(open_bundle(path).model),
                )
            )
    return Made(tuple(models), "; ".join(failures))
