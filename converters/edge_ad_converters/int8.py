"""The search for the best INT8 form of a float graph, by what it does to the anomaly maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from edge_ad_converters.bias import correct_differences
from edge_ad_converters.cost import gmac_by_layer
from edge_ad_converters.equalize import equalize
from edge_ad_converters.graph import activations, convolutions, differences, layer_name, results
from edge_ad_converters.onnx_qdq import Scheme, quantize_onnx
from edge_ad_converters.parity import MapError
from edge_ad_converters.ranges import (
    RANGE_METHODS,
    RangeMethod,
    Statistics,
    extremes,
    find_range,
    observe,
)
from edge_ad_runtime.engines import Engine, open_engine
from edge_ad_runtime.types import Image

# Strengths of the equalization that are tried; see docs/int8.md.
EQUALIZATIONS = (0.0, 0.75)
# A defect's differences lie above those of good images, which are all that calibration sees: room is left for those
# that damaged images reach, within these factors of what good images do.
SMALLEST_HEADROOM, LARGEST_HEADROOM = 1.25, 8.0
_BIAS_IMAGES = 16


@dataclass(frozen=True)
class Candidate:
    """A way to quantize, the error of its maps on held-out good images, and the share of the damage on damaged
    ones that it loses (:class:`edge_ad_converters.parity.MapError`)."""

    method: RangeMethod
    equalization: float
    good_error: float
    lost: float

    @property
    def error(self) -> float:
        """Damage that saturates away counts like an error of the same share."""
        return self.good_error + self.lost


@dataclass(frozen=True)
class Sensitivity:
    """The error of the maps where only this layer is INT8, and its share of all multiply-accumulates."""

    layer: str
    error: float
    gmac_share: float


@dataclass(frozen=True)
class CalibrationSets:
    """``uint8 1xHxWx3`` batches: ``ranges`` give the ranges, ``held_out`` (good, not among them) and ``stress``
    (:func:`edge_ad_converters.stress.stress_images`) choose."""

    ranges: Sequence[Image]
    held_out: Sequence[Image]
    stress: Sequence[Image]


@dataclass(frozen=True)
class _Basis:
    """An equalized float graph and what its tensors do."""

    model: onnx.ModelProto
    statistics: dict[str, Statistics]
    headroom: float
    stress_extremes: dict[str, float] = field(repr=False)


class Int8Search:
    """Builds INT8 graphs and measures them in onnxruntime.

    Args:
        model: the float graph.
        sets: the images, at least one in each set.
        scheme: the target's kind of grid.
        methods: the range methods to choose from.
        progress: called with a word on what is being done.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        sets: CalibrationSets,
        scheme: Scheme,
        methods: Sequence[RangeMethod] = RANGE_METHODS,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.sets, self.scheme = model, sets, scheme
        self._methods, self._progress = methods, progress
        self._bases: dict[float, _Basis] = {}
        reference = _engine(model)
        self._good = MapError(reference, sets.held_out)
        self._stress = MapError(reference, sets.stress)

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that was tried, the best first."""
        tried = []
        for strength in EQUALIZATIONS:
            for method in self._methods:
                self._progress(f"INT8: {method}{', equalized' if strength else ''}")
                engine = _engine(self._quantize(method, strength, ()))
                lost = self._stress.lost(engine, self._good.highest)
                tried.append(Candidate(method, strength, self._good.of(engine), lost))
        return tuple(sorted(tried, key=lambda c: c.error))

    @property
    def best(self) -> Candidate:
        """The candidate whose maps are closest to the float ones."""
        return self.candidates[0]

    @property
    def headroom(self) -> float:
        """The factor by which the grids of the differences reach beyond good images; the larger of the two."""
        return self._basis(self.best.equalization).headroom

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Of the activations in the best candidate's float graph."""
        return self._basis(self.best.equalization).statistics

    def build(self, in_float: Collection[str] = ()) -> onnx.ModelProto:
        """The best candidate's graph, the layers ``in_float`` left as they are."""
        basis = self._basis(self.best.equalization)
        quantized = self._quantize(self.best.method, self.best.equalization, in_float)
        return correct_differences(quantized, basis.model, self.sets.ranges[:_BIAS_IMAGES])

    @cached_property
    def sensitivity(self) -> tuple[Sensitivity, ...]:
        """Of each layer on the held-out good images, the most sensitive first."""
        costs = gmac_by_layer(self.model)
        whole = sum(costs.values())
        names = [layer_name(n) for n in convolutions(self.model)]
        found = []
        for name in names:
            self._progress(f"sensitivity of {name}")
            others = [n for n in names if n != name]
            engine = _engine(self._quantize(self.best.method, self.best.equalization, others))
            found.append(Sensitivity(name, self._good.of(engine), costs[name] / whole))
        return tuple(sorted(found, key=lambda s: -s.error))

    def _quantize(self, method: RangeMethod, strength: float, in_float: Collection[str]) -> onnx.ModelProto:
        basis = self._basis(strength)
        statistics = basis.statistics
        ranges = {name: find_range(statistics[name], method) for name in activations(basis.model)}
        for name, extreme in basis.stress_extremes.items():
            low, high = statistics[name].low, statistics[name].high
            factor = _headroom(statistics[name], extreme)
            ranges[name] = (low * factor, high * factor)
        means = {name: s.channel_mean for name, s in statistics.items()}
        return quantize_onnx(basis.model, ranges, means, scheme=self.scheme, in_float=in_float)

    def _basis(self, strength: float) -> _Basis:
        if strength not in self._bases:
            self._progress(f"ranges{' after equalization' if strength else ''}")
            model, first = self.model, None
            if strength:
                first = self._basis(0.0).statistics
                model = equalize(model, {n: first[n] for n in results(model).values()}, strength)
            inputs = [n.input[0] for n in convolutions(model)]
            statistics = observe(model, [*activations(model), *inputs], self.sets.ranges)
            reached = extremes(model, differences(model), self.sets.stress)
            headroom = max(_headroom(statistics[n], reached[n]) for n in reached)
            self._bases[strength] = _Basis(model, statistics, headroom, reached)
        return self._bases[strength]


def _headroom(statistics: Statistics, reached: float) -> float:
    good = max(-statistics.low, statistics.high)
    return min(max(reached / good if good > 0 else 1.0, SMALLEST_HEADROOM), LARGEST_HEADROOM)


def _engine(model: onnx.ModelProto) -> Engine:
    return open_engine("ort", model.SerializeToString(), "int8")
