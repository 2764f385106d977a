"""Statistics of the activations over calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from edge_ad_runtime.types import Image


@dataclass(frozen=True)
class Statistics:
    """The smallest and largest value of a tensor, and the mean of each of its channels (``float64 C``)."""

    low: float
    high: float
    channel_mean: npt.NDArray[np.float64]


def observe(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Image]
) -> dict[str, Statistics]:
    """Statistics of ``1xCxhxw`` tensors while the float graph runs on ``uint8 1xHxWx3`` batches.

    At least one batch is needed.
    """
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    present = {o.name for o in observed.graph.output}
    observed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in present
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, Statistics] = {}
    for count, batch in enumerate(batches, start=1):
        for name, value in zip(tensors, session.run(list(tensors), {"image": batch}), strict=True):
            new = Statistics(float(value.min()), float(value.max()), value.mean((0, 2, 3), dtype=np.float64))
            old = found.get(name, new)
            mean = old.channel_mean + (new.channel_mean - old.channel_mean) / count
            found[name] = Statistics(min(old.low, new.low), max(old.high, new.high), mean)
    return found
