"""Ranges of the activations over calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnxruntime as ort

from edge_ad_runtime.types import Image

Range = tuple[float, float]


def observe_ranges(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Image]
) -> dict[str, Range]:
    """The smallest and largest value of each tensor while the float graph runs on ``uint8 1xHxWx3`` batches."""
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
    low = dict.fromkeys(tensors, np.inf)
    high = dict.fromkeys(tensors, -np.inf)
    for batch in batches:
        for name, value in zip(tensors, session.run(list(tensors), {"image": batch}), strict=True):
            low[name] = min(low[name], float(value.min()))
            high[name] = max(high[name], float(value.max()))
    return {name: (low[name], high[name]) for name in tensors}
