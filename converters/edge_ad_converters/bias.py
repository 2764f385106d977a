"""Bias correction of the differences: what rounding does to their mean is measured and taken back.

The empirical form of M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction
(arXiv 1906.04721, appendix D), for the two convolutions where it matters to the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edge_ad_converters.graph import differences
from edge_ad_converters.ranges import Observer
from edge_ad_runtime.types import Image


def correct_differences(
    quantized: onnx.ModelProto, reference: onnx.ModelProto, batches: Sequence[Image]
) -> onnx.ModelProto:
    """The quantized graph with the biases of its differences moved.

    Args:
        quantized: the QDQ graph.
        reference: the float graph that it was made of.
        batches: ``uint8 1xHxWx3`` calibration images, at least one.
    """
    wanted = _channel_means(reference, batches)
    found = _channel_means(quantized, batches)
    corrected = onnx.ModelProto()
    corrected.CopyFrom(quantized)
    constants = {i.name: i for i in corrected.graph.initializer}
    produced = {output: n for n in corrected.graph.node for output in n.output}
    for output, mean in wanted.items():
        missing = mean - found[output]
        bias = produced[output].input[2]
        if bias in constants:
            values = numpy_helper.to_array(constants[bias]) + missing
            constants[bias].CopyFrom(numpy_helper.from_array(values.astype(np.float32), bias))
            continue
        integers, scale = (constants[name] for name in produced[bias].input[:2])
        steps = np.rint(missing / numpy_helper.to_array(scale))
        values = numpy_helper.to_array(integers) + steps
        values = np.clip(values, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        integers.CopyFrom(numpy_helper.from_array(values, integers.name))
    return corrected


def _channel_means(model: onnx.ModelProto, batches: Sequence[Image]) -> dict[str, npt.NDArray[np.float64]]:
    """Of each difference before it is rounded."""
    observer = Observer(model, _unrounded_differences(model))
    totals: dict[str, npt.NDArray[np.float64]] = {}
    for batch in batches:
        for name, value in observer.values(batch).items():
            totals[name] = totals.get(name, 0) + value.mean((0, 2, 3), dtype=np.float64)
    return {name: total / len(batches) for name, total in totals.items()}


def _unrounded_differences(model: onnx.ModelProto) -> list[str]:
    produced = {output: n for n in model.graph.node for output in n.output}
    found = []
    for name in differences(model):
        while produced[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = produced[name].input[0]
        found.append(name)
    return found
