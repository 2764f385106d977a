"""Cross-layer equalization: channels of similar reach, so that one scale for a tensor suits all of them.

A ReLU, an average, a resize and a border pass a positive factor through, so a channel may be divided by it
in the convolution that makes it and multiplied in those that read it: the graph computes the same. After
M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (arXiv 1906.04721,
section 4.1), with the activations' reach on calibration images in place of the weights'; a strength below 1
leaves a part of it to the weights, as G. Xiao et al., SmoothQuant (arXiv 2211.10438, equation 4).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edge_ad_converters.graph import PASSING, convolutions, differences, results
from edge_ad_converters.ranges import Statistics

# A channel that is nearly dead would get an enormous factor, and a defect may wake it up.
_SMALLEST_REACH = 1e-2

Source = tuple[str, int]


def equalize(
    model: onnx.ModelProto, statistics: Mapping[str, Statistics], strength: float
) -> onnx.ModelProto:
    """The same function with other channel scales.

    Args:
        model: the float graph.
        statistics: of the results of its convolutions (:func:`edge_ad_converters.graph.results`).
        strength: 0 changes nothing, 1 gives all channels of a tensor the same reach.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {i.name: numpy_helper.to_array(i) for i in copy.graph.initializer}
    factors = _factors(copy, statistics, strength)
    sources = _sources(copy, weights)
    changed: dict[str, npt.NDArray[np.float32]] = {}
    for node in convolutions(copy):
        source, weight, bias = node.input
        read = np.asarray([1.0 if s is None else factors[s[0]][s[1]] for s in sources[source]])
        made = factors[node.output[0]]
        changed[weight] = (weights[weight] * read[None, :, None, None] / made[:, None, None, None]).astype(
            np.float32
        )
        changed[bias] = (weights[bias] / made).astype(np.float32)
    for initializer in copy.graph.initializer:
        if initializer.name in changed:
            initializer.CopyFrom(numpy_helper.from_array(changed[initializer.name], initializer.name))
    return copy


def _factors(
    model: onnx.ModelProto, statistics: Mapping[str, Statistics], strength: float
) -> dict[str, npt.NDArray[np.float64]]:
    """What each convolution's output channels are divided by; 1 for the differences, which leave the graph."""
    fixed = set(differences(model))
    found = {}
    for output, result in results(model).items():
        reach = statistics[result].channel_reach
        if output in fixed or not reach.max() > 0:
            found[output] = np.ones(len(reach))
            continue
        reach = np.maximum(reach, _SMALLEST_REACH * reach.max())
        found[output] = (reach / np.exp(np.log(reach).mean())) ** strength
    return found


def _sources(
    model: onnx.ModelProto, weights: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, list[Source | None]]:
    """For each tensor and channel the convolution and its output channel it comes from, None for the image."""
    found: dict[str, list[Source | None]] = {}
    for node in model.graph.node:
        output = node.output[0]
        if node.op_type == "Conv":
            channels, width = weights[node.input[1]].shape[:2]
            found.setdefault(node.input[0], [None] * width)
            found[output] = [(output, c) for c in range(channels)]
        elif node.op_type == "Slice" and node.input[0] in found:
            found[output] = _sliced(found[node.input[0]], node, weights)
        elif node.op_type == "Concat" and all(name in found for name in node.input):
            found[output] = [source for name in node.input for source in found[name]]
        elif node.op_type in ("Relu", *PASSING) and node.input[0] in found:
            found[output] = found[node.input[0]]
    return found


def _sliced(
    sources: list[Source | None], node: onnx.NodeProto, weights: Mapping[str, npt.NDArray[np.generic]]
) -> list[Source | None]:
    """The channels that a slice keeps; a slice of rows or columns keeps all."""
    starts, ends, axes = (np.atleast_1d(weights[name]).astype(int) for name in node.input[1:4])
    kept = sources
    for start, end, axis in zip(starts, ends, axes, strict=True):
        if axis == 1:
            kept = kept[start:end]
    return kept
