"""How far apart engines are that run one INT8 graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from edge_ad_converters.graph import consumers
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import Engine, RawMaps
from edge_ad_runtime.scoring import apply_calibration, decide
from edge_ad_runtime.types import FloatArray, Image

# The bounds of engines that run the same integers, of the figures of :class:`Agreement`. Measured, with the golden
# images of :mod:`tests.conversion.test_engines_agree`: 0.017, 0.0002 and 0.11; on a trained run and all of its 60
# test images: 0.018, 0.008 and 0.30.
MAPS, SCORES, STEPS = 0.03, 0.02, 0.5


@dataclass(frozen=True)
class Agreement:
    """The largest deviations over images and maps.

    ``maps`` of raw maps, relative to the largest value of the reference's map; ``scores`` of image scores,
    relative to the score or the threshold, whichever is larger; ``steps`` of the differences that are
    squared, in steps of their grid, as a root mean square over the channels of a cell (at least; see
    :func:`steps_apart`). ``verdicts`` counts those that differ.
    """

    maps: float
    scores: float
    steps: float
    verdicts: int


def agreement(
    reference: Engine,
    other: Engine,
    batches: Sequence[Image],
    calibration: Calibration,
    grids: tuple[float, float],
) -> Agreement:
    """Compare two engines on ``uint8 1xHxWx3`` batches, with one calibration for both.

    ``grids`` are the reference's :func:`difference_steps`.
    """
    maps = scores = steps = 0.0
    verdicts = 0
    for batch in batches:
        a, b = reference.run(batch), other.run(batch)
        maps = max(maps, map_deviation(a, b))
        steps = max(steps, *(steps_apart(x, y, step) for x, y, step in zip(a, b, grids, strict=True)))
        (_, score_a), (_, score_b) = (apply_calibration(m, calibration) for m in (a, b))
        scores = max(scores, abs(score_b - score_a) / max(abs(score_a), abs(calibration.threshold)))
        verdicts += decide(score_a, calibration) is not decide(score_b, calibration)
    return Agreement(maps, scores, steps, verdicts)


def map_deviation(a: RawMaps, b: RawMaps) -> float:
    """The larger of the two maps' largest deviations, each relative to its map's largest value in ``a``."""
    return max(float(np.abs(x - y).max() / np.abs(x).max()) for x, y in zip(a, b, strict=True))


def steps_apart(a: FloatArray, b: FloatArray, step: float) -> float:
    """How many steps the differences behind two maps are apart, at least, in the worst cell.

    A cell of a map is the mean square of its differences over C channels, that is ``|d|**2 / C``. By the triangle
    inequality ``abs(|d_a| - |d_b|) <= |d_a - d_b|``, so the roots of two maps are no further apart than the root
    mean square of what the differences changed by.
    """
    return float(np.abs(np.sqrt(a, dtype=np.float64) - np.sqrt(b, dtype=np.float64)).max()) / step


def difference_steps(model: onnx.ModelProto) -> tuple[float, float]:
    """The step of the grid of the differences behind ``map_st`` and ``map_ae`` in a QDQ graph."""
    constants = {i.name: i for i in model.graph.initializer}
    produced = {output: n for n in model.graph.node for output in n.output}
    users = consumers(model)
    found = {}
    for node in model.graph.node:
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            dequantize, output = produced[node.input[0]], node.output[0]
            assert dequantize.op_type == "DequantizeLinear", f"{dequantize.name} is left in float"
            while users[output]:
                output = users[output][0].output[0]
            found[output] = float(numpy_helper.to_array(constants[dequantize.input[1]]))
    return found["map_st"], found["map_ae"]
