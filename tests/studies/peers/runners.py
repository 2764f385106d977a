"""One narrow way to run every model of the study, with the input's making apart from the engine's own time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.engines import Engine, open_engine
from edge_ad_runtime.types import FloatArray, Image
from tests.studies.peers.models import Model
from tests.studies.peers.plain import INPUT, OUTPUTS, float_input

# What the frames of PaDiM's paper are cropped to.
PADIM_SIDE = 224


class Runner(Protocol):
    """``infer(prepare(batch))`` gives the maps ``float32 hxw``: both raw ones, or anomalib's combined one."""

    def prepare(self, batch: Image) -> Any:
        """From ``uint8 1xHxWx3`` to what the engine takes."""
        ...

    def infer(self, value: Any) -> tuple[FloatArray, ...]:
        """The engine's part, and nothing else."""
        ...


def open_runner(model: Model, folder: Path, threads: int) -> Runner:
    """Open a model in its engine."""
    path = folder / model.file
    if model.graph == "fused":
        bundle = open_bundle(path)
        return _Ours(open_engine(bundle.manifest.target, bundle.model, bundle.manifest.precision, threads))
    if model.graph == "bare":
        return _Ours(open_engine(model.engine, path.read_bytes(), model.precision, threads))
    outputs = OUTPUTS if model.graph == "plain" else ("anomaly_map",)
    crop = PADIM_SIDE if model.graph == "padim" else None
    if model.engine == "ort":
        return _Ort(path, threads, outputs, crop)
    if model.engine == "openvino":
        return _OpenVino(path, threads, model.settings, outputs, crop)
    return _LiteRt(path, threads)


class _Ours:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prepare(self, batch: Image) -> Image:
        return batch

    def infer(self, value: Image) -> tuple[FloatArray, ...]:
        return self._engine.run(value)


class _Plain:
    """Takes the float image, or the middle ``crop`` pixels of each side of it."""

    def __init__(self, crop: int | None = None) -> None:
        self._crop = crop

    def prepare(self, batch: Image) -> FloatArray:
        return float_input(batch if self._crop is None else _middle(batch, self._crop))


def _middle(batch: Image, side: int) -> Image:
    top, left = ((whole - side) // 2 for whole in batch.shape[1:3])
    return batch[:, top : top + side, left : left + side]


class _Ort(_Plain):
    def __init__(self, path: Path, threads: int, outputs: tuple[str, ...], crop: int | None) -> None:
        import onnxruntime as ort

        super().__init__(crop)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # As in our engine: threads that spin on after a run would slow whatever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._outputs = outputs
        self._session: Any = ort.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )

    def infer(self, value: FloatArray) -> tuple[FloatArray, ...]:
        return tuple(m[0] for m in self._session.run(self._outputs, {INPUT: value}))


class _OpenVino(_Plain):
    def __init__(
        self, path: Path, threads: int, settings: dict[str, str], outputs: tuple[str, ...], crop: int | None
    ) -> None:
        import openvino as ov

        super().__init__(crop)
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            **settings,
        }
        compiled = ov.Core().compile_model(path, "CPU", config)
        self._request = compiled.create_infer_request()
        self._outputs = [compiled.output(name) for name in outputs]

    def infer(self, value: FloatArray) -> tuple[FloatArray, ...]:
        result = self._request.infer([value], share_inputs=True)
        return tuple(np.array(result[o], np.float32).reshape(result[o].shape[-2:]) for o in self._outputs)


class _LiteRt(_Plain):
    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        super().__init__()
        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = self._interpreter.get_output_details()

    def prepare(self, batch: Image) -> Any:
        value = float_input(batch)
        if self._input["dtype"] == np.float32:
            return value
        scale, zero = self._input["quantization"]
        limits = np.iinfo(self._input["dtype"])
        return np.clip(np.rint(value / scale) + zero, limits.min, limits.max).astype(self._input["dtype"])

    def infer(self, value: Any) -> tuple[FloatArray, ...]:
        self._interpreter.set_tensor(self._input["index"], value)
        self._interpreter.invoke()
        maps = []
        for output in self._outputs:
            found = self._interpreter.get_tensor(output["index"])[0]
            if output["dtype"] != np.float32:
                scale, zero = output["quantization"]
                found = (found.astype(np.float32) - np.float32(zero)) * np.float32(scale)
            maps.append(found)
        return tuple(maps)
