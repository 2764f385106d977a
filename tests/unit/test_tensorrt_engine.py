"""The engine of the target tensorrt over doubles of TensorRT and CUDA: plumbing, plans, errors, freeing.

None of this says that TensorRT accepts a model or what it computes.
"""

from __future__ import annotations

import gc
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from edge_ad_converters.tensorrt_graph import for_tensorrt
from edge_ad_converters.tensorrt_rules import check_tensorrt
from edge_ad_runtime.bundle import open_bundle, write_bundle
from edge_ad_runtime.calibration import encode_calibration
from edge_ad_runtime.engines import Engine, Precision, open_engine
from edge_ad_runtime.engines.cuda import Cuda
from edge_ad_runtime.errors import BundleError, EngineError, InputError, MissingExtra
from edge_ad_runtime.inspector import Inspector, open_inspector
from edge_ad_runtime.types import Image
from edge_ad_runtime.verdict import Verdict
from tests.conftest import TINY_SIZE, bad_part, good_part, tiny_model
from tests.conversion.test_tensorrt_rules import Small
from tests.unit.tensorrt_double import BuilderFlag, CudaError, Device, Flags8, Flags10, install

VERSIONS = ("8.6.1", "10.3.0")
MODEL = for_tensorrt(onnx.load_from_string(tiny_model())).SerializeToString()


def small_model() -> bytes:
    """A quantized graph of 8x8 pixels with two maps."""
    small = Small()
    small.node("Mul", ["map_st", "grey"], "map_ae")
    small.outputs.append("map_ae")
    model = small.model()
    assert check_tensorrt(model) == ()
    encoded: bytes = model.SerializeToString()
    return encoded


def batch(seed: int = 0, size: int = TINY_SIZE) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_AD_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def device(state: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    install(monkeypatch, device, version)
    return device


def opened(model: bytes = MODEL, precision: Precision = "fp32") -> Engine:
    return open_engine("tensorrt", model, precision)


def plans(state: Path) -> list[Path]:
    return sorted((state / "tensorrt").glob("*.plan"))


def test_runs_like_onnxruntime(device: Device, version: str) -> None:
    engine = opened()
    assert engine.name == f"TensorRT {version} on Orin"
    reference = open_engine("ort", MODEL, "fp32", threads=1)
    results = [engine.run(batch(seed)) for seed in range(3)]
    # Compared after all have run: no result may share memory with the next.
    for seed, maps in enumerate(results):
        for got, expected in zip(maps, reference.run(batch(seed)), strict=True):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, expected)


def test_precisions_are_asked_for_as_documented(device: Device, version: str) -> None:
    old = version.startswith("8.")
    for model, precision in ((MODEL, "fp32"), (small_model(), "int8"), (MODEL, "fp16")):
        opened(model, precision)  # type: ignore[arg-type]
    fp32, int8, fp16 = device.builds
    batch_flag = 1 << Flags8.EXPLICIT_BATCH
    for build in (fp32, int8):
        assert build.network.flags == (batch_flag if old else 1 << Flags10.STRONGLY_TYPED)
        assert all(layer.precision is None for layer in build.network.layers)
    assert fp16.network.flags == batch_flag
    assert fp32.flags == set()
    assert int8.flags == ({BuilderFlag.INT8} if old else set())
    assert fp16.flags == {BuilderFlag.FP16, BuilderFlag.OBEY_PRECISION_CONSTRAINTS}
    bound = {x.name for x in fp16.network.layers if x.precision is not None}
    assert bound == {x.name for x in fp16.network.layers if x.output_type is not None}
    assert bound == {"centred", "squared", "map_st", "map_ae"}


def test_int8_graph_runs(device: Device) -> None:
    model = small_model()
    maps = opened(model, "int8").run(batch(size=8))
    expected = open_engine("ort", model, "int8", threads=1).run(batch(size=8))
    assert maps.st.any()
    for got, wanted in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_fp16_needs_a_tensorrt_that_has_it(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tensorrt"], "BuilderFlag", type("Flags", (), {"TF32": 2}))
    with pytest.raises(EngineError, match="--precision int8 or fp32"):
        opened(MODEL, "fp16")


def test_a_bundle_through_the_inspector(device: Device, tiny_bundle: Path, tmp_path: Path) -> None:
    """Golden samples made by onnxruntime are reproduced, verdicts fall; a changed model is noticed."""
    source = open_bundle(tiny_bundle)
    manifest = msgspec.structs.replace(source.manifest, target="tensorrt", name="jetson")
    for name, model in (("good", MODEL), ("other", _brighter(MODEL))):
        write_bundle(
            tmp_path / f"{name}.edgead",
            manifest,
            model,
            encode_calibration(source.calibration),
            source.golden,
            source.report,
        )
    inspector = open_inspector(tmp_path / "good.edgead")
    assert inspector.engine.name.startswith("TensorRT")
    assert inspector.inspect(good_part(1)).verdict is Verdict.PASS
    assert inspector.inspect(bad_part(1)).verdict is Verdict.REJECT
    with pytest.raises(BundleError, match="golden sample 0 deviates"):
        Inspector(open_bundle(tmp_path / "other.edgead")).self_test()


def _brighter(model: bytes) -> bytes:
    changed = onnx.load_from_string(model)
    for constant in changed.graph.initializer:
        if constant.name == "grey":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array(140, np.float32), "grey"))
    encoded: bytes = changed.SerializeToString()
    return encoded


def test_the_second_start_reads_the_plan(device: Device, state: Path) -> None:
    first = opened().run(batch())
    (plan,) = plans(state)
    written = plan.stat().st_mtime_ns
    second = opened().run(batch())
    np.testing.assert_array_equal(first.st, second.st)
    assert len(device.builds) == 1
    assert plan.stat().st_mtime_ns == written


def test_a_plan_is_for_one_model_precision_gpu_and_version(
    device: Device, state: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    opened(_brighter(MODEL))
    opened(precision="fp16")
    device.name = "Xavier"
    opened()
    device.capability = (7, 2)
    opened()
    install(monkeypatch, device, version + ".1")
    opened()
    assert len(device.builds) == 6
    assert len(plans(state)) == 6
    opened()
    assert len(device.builds) == 6


def _flip(at: int) -> Callable[[Path], None]:
    def damage(plan: Path) -> None:
        data = bytearray(plan.read_bytes())
        data[at] ^= 1
        plan.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _flip(0), _flip(30), _flip(60), _flip(200), _flip(-1),
        lambda plan: plan.write_bytes(b""),
        lambda plan: plan.write_bytes(plan.read_bytes()[:-1]),
        lambda plan: plan.write_bytes(plan.read_bytes() + b"x"),
    ],
    ids=["magic", "hash", "plan's start", "plan", "last byte", "empty", "cut", "longer"],
)  # fmt: skip
@pytest.mark.parametrize("version", ["10.3.0"], indirect=True)
def test_a_damaged_plan_is_built_anew(
    device: Device, state: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    opened()
    (plan,) = plans(state)
    whole = plan.read_bytes()
    damage(plan)
    assert plan.read_bytes() != whole
    opened().run(batch())
    assert len(device.builds) == 2
    assert f"{plan}: is damaged" in caplog.text
    assert plan.read_bytes() == whole


def test_a_plan_under_another_name_is_not_run(
    device: Device, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened()
    (mine,) = plans(state)
    other = _brighter(MODEL)
    opened(other)
    (foreign,) = [p for p in plans(state) if p != mine]
    shutil.copy(foreign, mine)
    expected = open_engine("ort", MODEL, "fp32", threads=1).run(batch())
    np.testing.assert_array_equal(opened().run(batch()).st, expected.st)
    assert len(device.builds) == 3
    assert f"{mine}: is damaged or was built for something else" in caplog.text


def test_a_plan_that_tensorrt_refuses_is_built_anew(
    device: Device, state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the GPU keeps its name while something in it changes."""
    opened()
    tensorrt = sys.modules["tensorrt"]
    real = tensorrt.Runtime

    def forgetful(logger: object) -> object:
        runtime = real(logger)
        deserialize, refusals = runtime.deserialize_cuda_engine, [None]
        runtime.deserialize_cuda_engine = lambda plan: refusals.pop() if refusals else deserialize(plan)
        return runtime

    monkeypatch.setattr(tensorrt, "Runtime", forgetful)
    opened().run(batch())
    assert len(device.builds) == 2
    assert "does not take it any more" in caplog.text


def test_without_a_writable_folder_there_is_no_cache(
    device: Device, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state.write_text("a file where the folder should be")
    for _ in range(2):
        opened().run(batch())
    assert len(device.builds) == 2
    assert "cannot be written" in caplog.text
    assert "EDGE_AD_STATE" in caplog.text


def test_without_a_home_folder_there_is_no_cache(
    device: Device, state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("EDGE_AD_STATE")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    opened().run(batch())
    assert "this user has no home folder" in caplog.text


def test_the_long_first_start_is_announced(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        opened()
        assert "takes minutes" in caplog.text
        caplog.clear()
        opened()
    assert caplog.text == ""


def test_everything_is_freed(device: Device) -> None:
    engine = opened()
    engine.run(batch())
    assert len(device.memory) == 3
    assert len(device.streams) == 1
    del engine
    gc.collect()
    assert not device.memory
    assert not device.streams


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("cudaGetDeviceProperties", "cudaGetDeviceProperties failed: text of cudaErrorMemoryAllocation"),
        ("cudaStreamCreate", "cudaStreamCreate failed"),
        ("cudaMalloc", "cudaMalloc failed"),
    ],
)
def test_cuda_errors_when_opening(device: Device, function: str, message: str) -> None:
    device.failing[function] = CudaError.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match=message):
        opened()
    gc.collect()
    assert not device.memory
    assert not device.streams


@pytest.mark.parametrize("function", ["cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_cuda_errors_when_running(device: Device, function: str) -> None:
    engine = opened()
    device.failing[function] = CudaError.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match=f"{function} failed: text of cudaErrorIllegalAddress"):
        engine.run(batch())
    del device.failing[function]
    expected = open_engine("ort", MODEL, "fp32", threads=1).run(batch(5))
    np.testing.assert_array_equal(engine.run(batch(5)).st, expected.st)


def test_no_driver_is_explained(device: Device) -> None:
    device.failing["cudaGetDeviceProperties"] = CudaError.cudaErrorInsufficientDriver
    with pytest.raises(EngineError, match="no NVIDIA driver here, or cuda-python is for a newer CUDA"):
        opened()
    # What cuda-python 12.2 does instead of returning an error.
    del device.failing["cudaGetDeviceProperties"]
    device.refuses.add("driver")
    with pytest.raises(EngineError, match="cudaGetDeviceProperties failed: Failed to dlopen"):
        opened()


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        ("Builder", EngineError, "opening the engine failed: pybind11"),
        ("build", BundleError, "cannot build an engine"),
        ("plan", EngineError, "does not take the engine that it has just built"),
        ("context", EngineError, "too little memory"),
        ("address", EngineError, "refuses the memory of 'image'"),
    ],
)
def test_refusals_when_opening(
    device: Device, state: Path, refused: str, error: type[Exception], message: str
) -> None:
    device.refuses.add(refused)
    with pytest.raises(error, match=message) as caught:
        opened()
    # While the traceback still holds the engine's half-made parts.
    assert caught.tb is not None
    assert not device.memory
    assert not device.streams
    assert bool(plans(state)) == (refused in ("context", "address"))


def test_refusal_when_running(device: Device) -> None:
    engine = opened()
    device.refuses.add("execute")
    with pytest.raises(EngineError, match="failed to run"):
        engine.run(batch())


def test_a_model_that_cannot_be_parsed(device: Device) -> None:
    with pytest.raises(BundleError, match="refuses the model: could not parse the model"):
        opened(b"not an ONNX file")
    assert not device.memory


@pytest.mark.parametrize("version", ["8.6.1"], indirect=True)
def test_a_model_of_a_newer_opset(device: Device) -> None:
    with pytest.raises(BundleError, match="opset 18 is above 17"):
        opened(tiny_model())


def test_other_inputs_and_outputs_are_refused(device: Device) -> None:
    model = onnx.load_from_string(MODEL)
    del model.graph.output[1]
    with pytest.raises(BundleError, match=r"\['image', 'map_st'\]"):
        opened(model.SerializeToString())
    model = onnx.load_from_string(MODEL)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    with pytest.raises(BundleError, match=r"'image' is .* \(1, -1, 32, 3\)"):
        opened(model.SerializeToString())


@pytest.mark.parametrize("wrong", [batch(size=16), batch().astype(np.float32), batch()[0]])
def test_a_batch_of_another_form_is_refused(device: Device, wrong: Image) -> None:
    engine = opened()
    with pytest.raises(InputError, match=r"takes uint8 \(1, 32, 32, 3\)"):
        engine.run(wrong)


def test_a_batch_that_is_not_contiguous_is_copied(device: Device) -> None:
    flipped = batch()[:, ::-1]
    expected = open_engine("ort", MODEL, "fp32", threads=1).run(np.ascontiguousarray(flipped))
    np.testing.assert_array_equal(opened().run(flipped).st, expected.st)


def test_missing_packages_say_where_they_come_from(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"'cuda-python'.*edge-ad\[tensorrt\]") as missing:
        opened()
    assert missing.value.extra == "tensorrt"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=r"JetPack .*--system-site-packages .*edge-ad\[tensorrt\]"):
        opened()


class TestTheDoubleIsStrict:
    """That the tests above could fail: misuse of the double does."""

    def test_nothing_is_there_before_the_stream_is_synchronized(self, device: Device) -> None:
        cuda, sent, back = Cuda(), batch(), np.zeros_like(batch())
        address = cuda.allocate(sent.nbytes)
        cuda.upload(address, sent)
        cuda.download(back, address)
        assert not back.any()
        cuda.synchronize()
        np.testing.assert_array_equal(back, sent)

    def test_copies_outside_of_an_allocation_fail(self, device: Device) -> None:
        cuda = Cuda()
        address = cuda.allocate(10)
        for target in (address, address + 1):
            with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
                cuda.upload(target, np.zeros(11, np.uint8))

    def test_use_after_free_fails(self, device: Device) -> None:
        engine = opened()
        device.memory.clear()
        with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
            engine.run(batch())

    def test_a_missing_address_fails(self, device: Device) -> None:
        engine = opened()
        engine._context._addresses.pop("map_ae")  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="failed to run"):
            engine.run(batch())
