"""Engine options, and who owns an image and the maps, in every engine that computes on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_ad_converters.tflite import write_tflite
from edge_ad_runtime.cores import usable_cores
from edge_ad_runtime.engines import Engine, EngineOptions, Target, engine_name, open_engine
from edge_ad_runtime.engines.options import (
    OpenVinoOptions,
    OrtOptions,
    TfliteOptions,
    thread_count,
)
from edge_ad_runtime.errors import BundleError, InputError
from edge_ad_runtime.types import FloatArray, Image

SIZE = 32
CPU_TARGETS: tuple[Target, ...] = ("ort", "openvino", "tflite")
# Those that read the image where it lies.
UNCOPIED: tuple[Target, ...] = ("ort", "openvino")
VARIANTS: dict[Target, list[EngineOptions]] = {
    "ort": [EngineOptions(ort=OrtOptions(spinning=False)), EngineOptions(ort=OrtOptions(arena=False))],
    "openvino": [
        EngineOptions(openvino=OpenVinoOptions(pinning=False)),
        EngineOptions(openvino=OpenVinoOptions(pinning=True, hyper_threading=True)),
        EngineOptions(openvino=OpenVinoOptions(core_type="performance", hyper_threading=False)),
    ],
    "tflite": [EngineOptions(tflite=TfliteOptions(latest_kernels=True))],
}


def picture(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)


def small_graph() -> onnx.ModelProto:
    """A fused graph in miniature that every target can be given: per pixel the mean squared distance of the channels from
    mid-grey, and half of it."""
    half = np.sqrt(0.5)
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["first"], ["x"], to=TensorProto.FLOAT),
    ]
    weights: dict[str, npt.NDArray[Any]] = {"axes": np.array([1], np.int64)}
    for name, factor in (("map_st", 1.0), ("map_ae", half)):
        weights[f"w_{name}"] = (factor * np.eye(3)).astype(np.float32)[:, :, None, None]
        weights[f"b_{name}"] = np.full(3, -128 * factor, np.float32)
        nodes += [
            helper.make_node("Conv", ["x", f"w_{name}", f"b_{name}"], [f"d_{name}"]),
            helper.make_node("Mul", [f"d_{name}", f"d_{name}"], [f"s_{name}"]),
            helper.make_node("ReduceMean", [f"s_{name}", "axes"], [name], keepdims=0),
        ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIZE, SIZE]) for n in ("map_st", "map_ae")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def expected(image: Image) -> FloatArray:
    """What the graph computes as its first map, in numpy."""
    first: FloatArray = ((image[0].astype(np.float32) - 128) ** 2).mean(2)
    return first


@pytest.fixture(scope="module")
def models() -> dict[Target, bytes]:
    graph = small_graph()
    plain = graph.SerializeToString()
    return {"ort": plain, "openvino": plain, "tflite": write_tflite(graph)}


@pytest.fixture(params=CPU_TARGETS)
def engine(request: pytest.FixtureRequest, models: dict[Target, bytes]) -> Engine:
    return open_engine(request.param, models[request.param], "fp32", threads=1)


def check(engine: Engine, image: Image) -> None:
    maps = engine.run(image)
    np.testing.assert_allclose(maps.st, expected(image), rtol=1e-5)
    np.testing.assert_allclose(maps.ae, expected(image) / 2, rtol=1e-5)


def test_maps_stay_as_they_are_when_the_next_image_runs(engine: Engine) -> None:
    kept = [(seed, engine.run(picture(seed))) for seed in range(4)]
    for seed, maps in kept:
        np.testing.assert_allclose(maps.st, expected(picture(seed)), rtol=1e-5)
        np.testing.assert_allclose(maps.ae, expected(picture(seed)) / 2, rtol=1e-5)
        assert maps.st.dtype == maps.ae.dtype == np.float32
        maps.st[:] = -1
    check(engine, picture(9))


def test_an_array_that_is_filled_anew_is_read_anew(engine: Engine) -> None:
    batch = picture(0)
    check(engine, batch)
    for seed in (1, 2, 3):
        np.copyto(batch, picture(seed))
        check(engine, batch)
    other = picture(4)
    check(engine, other)
    np.copyto(batch, picture(5))
    check(engine, batch)
    check(engine, other)


def test_an_array_that_is_gone_is_not_read(engine: Engine) -> None:
    for seed in range(20):
        check(engine, picture(seed))


def test_views_and_images_that_may_not_be_written_to(engine: Engine) -> None:
    large = np.random.default_rng(1).integers(0, 256, (1, 50, 60, 3), np.uint8)
    view = large[:, 3 : 3 + SIZE, 7 : 7 + SIZE]
    for _ in range(2):
        check(engine, view)
        # The view is the same array, its memory holds something else.
        large += 31
    flipped = picture(2)[:, :, ::-1]
    check(engine, flipped)
    fixed = picture(3)
    fixed.flags.writeable = False
    check(engine, fixed)


def test_other_sizes_and_types_are_refused(models: dict[Target, bytes]) -> None:
    for engine in (open_engine(t, models[t], "fp32", threads=1) for t in UNCOPIED):
        for wrong in (
            picture(0)[:, 1:],
            picture(0)[0],
            picture(0).astype(np.int8),
            picture(0).astype(np.float32),
        ):
            with pytest.raises(InputError, match="the engine takes uint8"):
                engine.run(wrong)  # type: ignore[arg-type]
        check(engine, picture(0))


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_a_model_with_an_open_shape_is_refused(target: Target) -> None:
    model = small_graph()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[1].dim_param = "n"
    with pytest.raises(BundleError, match="has the shape"):
        open_engine(target, model.SerializeToString(), "fp32", threads=1)


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_every_option_opens_and_computes_the_same(target: Target, models: dict[Target, bytes]) -> None:
    for options in (EngineOptions(threads=2), *VARIANTS[target]):
        opened = open_engine(target, models[target], "fp32", options=options)
        assert opened.name == engine_name(target)
        check(opened, picture(7))


def test_options_reach_the_engines(models: dict[Target, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def session(model: bytes, options: onnxruntime.SessionOptions, **more: object) -> object:
        seen.append(options)
        return real(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    open_engine("ort", models["ort"], "fp32", threads=1, options=EngineOptions(threads=2))
    open_engine(
        "ort", models["ort"], "fp32", options=EngineOptions(ort=OrtOptions(spinning=False, arena=False))
    )
    assert [s.intra_op_num_threads for s in seen] == [1, thread_count(EngineOptions()) or 0]
    assert [s.enable_cpu_mem_arena for s in seen] == [True, False]
    assert seen[1].get_session_config_entry("session.intra_op.allow_spinning") == "0"
    for options in seen:
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"


PINNED = """
import json, os, sys
import numpy as np
from pathlib import Path
from edge_ad_runtime.engines import EngineOptions, open_engine
core = max(os.sched_getaffinity(0))
before = {p.name for p in Path("/proc/self/task").iterdir()}
engine = open_engine(sys.argv[1], Path(sys.argv[2]).read_bytes(), "fp32", options=EngineOptions(threads=2, cpus=(core,)))
engine.run(np.zeros((1, 32, 32, 3), np.uint8))
after = {p.name for p in Path("/proc/self/task").iterdir()} - before
# Threads that an import starts and that compute nothing may have been there before; the engine's come after.
print(json.dumps([core, sorted(os.sched_getaffinity(0)), [sorted(os.sched_getaffinity(int(t))) for t in after]]))
"""


@pytest.mark.parametrize("target", ["openvino", "tflite", "ort"])
def test_an_engine_keeps_to_its_cores(target: Target, models: dict[Target, bytes], tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(models[target])
    done = subprocess.run(
        [sys.executable, "-c", PINNED, target, str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    core, caller, threads = msgspec.json.decode(done.stdout)
    assert caller == [core]
    # onnxruntime has a thread more for a run's second; all that were started are on the core.
    assert all(each == [core] for each in threads)


def test_without_all_cores_engines_are_told_how_many() -> None:
    assert thread_count(EngineOptions(threads=3)) == 3
    all_of_them = len(usable_cores()) == os.cpu_count()
    assert thread_count(EngineOptions()) == (None if all_of_them else len(usable_cores()))


@pytest.mark.parametrize(
    "values",
    [
        {"threads": 0},
        {"threads": 1025},
        {"cpus": ()},
        {"cpus": (1, 1)},
        {"cpus": (-1,)},
        {"cpus": (4096,)},
    ],
)
def test_options_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(InputError):
        EngineOptions(**values)  # type: ignore[arg-type]
    with pytest.raises((msgspec.ValidationError, InputError)):
        msgspec.json.decode(msgspec.json.encode(values), type=EngineOptions)


def test_options_are_told_and_read_back() -> None:
    assert EngineOptions().words == "defaults"
    options = EngineOptions(
        threads=1, cpus=(0, 1, 3), ort=OrtOptions(spinning=False), openvino=OpenVinoOptions(pinning=False)
    )
    assert options.words == "1 thread, cores 0-1,3, no spinning, no pinned threads"
    assert msgspec.json.decode(msgspec.json.encode(options), type=EngineOptions) == options
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"thread": 1}', type=EngineOptions)


def test_a_model_without_the_maps_is_refused() -> None:
    node = helper.make_node("Identity", ["image"], ["map_st"])
    values = [helper.make_tensor_value_info(n, TensorProto.UINT8, [1, 4, 4, 3]) for n in ("image", "map_st")]
    graph = helper.make_graph([node], "other", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for target in UNCOPIED:
        with pytest.raises(BundleError):
            open_engine(target, model.SerializeToString(), "fp32")
