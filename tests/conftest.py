"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_ad_calibration.fit import fit_calibration
from edge_ad_runtime.bundle import GoldenSample, Manifest, write_bundle
from edge_ad_runtime.calibration import encode_calibration
from edge_ad_runtime.engines import open_engine
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.scoring import combine_maps, image_score

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
    return model.SerializeToString()


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
    engine = open_engine("ort", model, threads=1)
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
