"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edge_ad.data import read_dataset, split_good
from edge_ad.nets.architecture import architecture
from edge_ad.nets.pdn import Pdn
from edge_ad.run_folder import RunConfig
from edge_ad.teacher import save_teacher
from edge_ad.training.job import train
from edge_ad.training.options import Plan
from edge_ad_calibration.fit import fit_calibration
from edge_ad_runtime.bundle import GoldenSample, Manifest, write_bundle
from edge_ad_runtime.calibration import encode_calibration
from edge_ad_runtime.engines import open_engine
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.scoring import combine_maps, image_score
from edge_ad_runtime.stopping import StopRequest

TINY_SIZE = 32


def tiny_model() -> bytes:
    """A fused graph in miniature: the mean squared distance of 4x4 pixels from mid-grey, and half of it."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "grey"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("Transpose", ["squared"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels_first"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ReduceMean", ["pooled", "axes"], ["map_st"], keepdims=0),
        helper.make_node("Mul", ["map_st", "half"], ["map_ae"]),
    ]
    cells = TINY_SIZE // 4
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, TINY_SIZE, TINY_SIZE, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, cells, cells])
            for name in ("map_st", "map_ae")
        ],
        [
            numpy_helper.from_array(np.array(128, np.float32), "grey"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    encoded: bytes = model.SerializeToString()
    return encoded


def good_part(seed: int, height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """A camera image of a good part: grey with a little noise. Its tiny-bundle score is below the threshold."""
    rng = np.random.default_rng(seed)
    return rng.normal(128, 10, (height, width, 3)).clip(0, 255).astype(np.uint8)


def bad_part(seed: int, height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """A good part with a white square on it, far above the threshold."""
    image = good_part(seed, height, width)
    image[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255
    return image


def write_tiny_bundle(path: Path) -> Path:
    """A real bundle around :func:`tiny_model`, calibrated on thirty good parts."""
    model = tiny_model()
    engine = open_engine("ort", model, "fp32", threads=1)
    spec = PreprocessSpec(height=TINY_SIZE, width=TINY_SIZE)
    batches = [preprocess(good_part(seed), spec) for seed in range(30)]
    maps = [engine.run(batch) for batch in batches]
    calibration = fit_calibration(maps, bundle="", source="tiny", false_reject_rate=1e-4)
    score = image_score(combine_maps(*maps[0], calibration.quantiles, calibration.mix))
    manifest = Manifest(
        name=path.stem,
        size="tiny",
        target="ort",
        precision="fp32",
        model="model.onnx",
        preprocess=spec,
        map_height=TINY_SIZE // 4,
        map_width=TINY_SIZE // 4,
        gmac=0.0,
        golden_tolerance=1e-4,
        created="2026-01-01T00:00:00+00:00",
        provenance={"source": "tests"},
        files={},
    )
    golden = (GoldenSample(batches[0], maps[0].st, maps[0].ae, score),)
    write_bundle(path, manifest, model, encode_calibration(calibration), golden, {"note": "a test bundle"})
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a small, real bundle whose engine takes microseconds."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgead")


def write_parts(root: Path, good: int = 14, size: int = 64) -> Path:
    """A data set in the MVTec AD layout: noisy grey parts, and a white square as the defect."""
    for folder, count, draw, first in (
        ("train/good", good, good_part, 0),
        ("test/good", 3, good_part, 1000),
        ("test/square", 3, bad_part, 2000),
    ):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = draw(first + i, size, size)
            assert cv2.imwrite(str(root / folder / f"{i:03d}.png"), pixels)
    return root


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of :func:`write_parts`."""
    return write_parts(tmp_path_factory.mktemp("parts") / "data")


def make_random_teacher(path: Path) -> Path:
    """A teacher of size ``n`` with random weights: real in form, useless in content."""
    spec = architecture("n")
    torch.manual_seed(7)
    save_teacher(path, Pdn(spec.pdn.layers(spec.teacher_channels)), "n", {"made": "by the tests"})
    return path


@pytest.fixture(scope="session")
def random_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of :func:`make_random_teacher`."""
    return make_random_teacher(tmp_path_factory.mktemp("teacher") / "random.safetensors")


def run_config(data: Path, teacher: Path, steps: int, **changes: Any) -> RunConfig:
    """The options of a short training."""
    options: dict[str, Any] = {
        "size": "n", "data": str(data), "teacher": teacher.name, "teacher_sha256": "",
        "preprocess": PreprocessSpec(height=256, width=256), "steps": steps, "batch": 1, "rate": 1e-4,
        "weight_decay": 1e-5, "decay_at": 0.95, "hard_quantile": "0.999", "validation": 0.1, "group": None,
        "penalty": None, "seed": 42,
    }  # fmt: skip
    return RunConfig(**(options | changes))


def run_plan(data: Path, teacher: Path, steps: int, **changes: Any) -> Plan:
    """A short training, ready to start."""
    dataset, config = read_dataset(data), run_config(data, teacher, steps, **changes)
    return Plan(dataset, split_good(dataset, config.validation, config.seed), config, teacher, None)


@pytest.fixture(scope="session")
def short_run(parts: Path, random_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps."""
    out = tmp_path_factory.mktemp("runs") / "short"
    assert train(out, run_plan(parts, random_teacher, 3), "cpu", StopRequest(), resume=False)
    return out


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long studies run only when asked for."""
    if os.environ.get("EDGE_AD_STUDY") == "1":
        return
    skip = pytest.mark.skip(reason="a long study; run it with EDGE_AD_STUDY=1")
    for item in items:
        if item.get_closest_marker("study"):
            item.add_marker(skip)
