"""Conversions that are quick: each graph is exported once, times are taken in few rounds, on few images."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from edge_ad.cli.convert import command
from edge_ad.conversion import build, job
from edge_ad.run_folder import open_run
from edge_ad_converters.fuse import FusedNets
from edge_ad_converters.onnx_float import export_onnx


def convert_words(run: Path, out: Path, images: Path, *more: str) -> list[str]:
    """Arguments of a conversion whose limit even random nets keep, without the search and the scan."""
    return [
        str(run), "-o", str(out), "--calibration-images", str(images), "--threads", "1", "--ranges", "min-max",
        "--no-sensitivity", "--min-map-correlation", "0.9", *more,
    ]  # fmt: skip


@pytest.fixture(scope="package")
def quick() -> Iterator[None]:
    """Everything is computed as ever, but a graph that was exported before is not exported again."""
    exported: dict[str, onnx.ModelProto] = {}

    def once(fused: FusedNets) -> onnx.ModelProto:
        content = hashlib.sha256(repr((fused.centred, fused.input_size, fused.padded)).encode())
        for name, tensor in fused.state_dict().items():
            content.update(name.encode() + tensor.numpy().tobytes())
        key = content.hexdigest()
        if key not in exported:
            exported[key] = export_onnx(fused)
        return exported[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "export_onnx", once)
        patch.setattr(job, "_LATENCY_ROUNDS", 3)
        yield


@pytest.fixture(scope="package")
def few(short_run: Path, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training images: for ranges only, the run's validation images serve the fit."""
    folder = tmp_path_factory.mktemp("few")
    for name in sorted(open_run(short_run).split.train)[:3]:
        shutil.copy(parts / name, folder)
    return folder


@pytest.fixture(scope="package")
def converted(
    quick: None, short_run: Path, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """An INT8 bundle for onnxruntime, and what the command printed as JSON."""
    out = tmp_path_factory.mktemp("converted") / "part.edgead"
    done = CliRunner().invoke(command, convert_words(short_run, out, few, "--json"))
    assert done.exit_code == 0, done.output
    return out, done.stdout
