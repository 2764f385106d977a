"""The search for the best INT8 form of a float graph, by what it does to the anomaly maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from edge_ad_converters.bias import correct_differences
from edge_ad_converters.cost import gmac_by_layer
from edge_ad_converters.equalize import equalize
from edge_ad_converters.graph import convolutions, differences, parts
from edge_ad_converters.onnx_qdq import Scheme, quantize_onnx
from edge_ad_converters.parity import MapError
from edge_ad_converters.ranges import (
    RANGE_METHODS,
    RangeMethod,
    Statistics,
    find_range,
    observe,
)
from edge_ad_runtime.engines import Engine, open_engine
from edge_ad_runtime.types import Image

# Strengths of the equalization that are tried; see docs/int8.md.
EQUALIZATIONS = (0.0, 0.75)
# The grids of the differences reach beyond what damaged images do by the margin, and at most so far beyond what
# good images do; a defect's differences should not saturate.
MARGIN = 1.25
LARGEST_HEADROOM = 3.0
# Share of the far-above cells of damaged images that may saturate: single cells, whose neighbours still tell.
TOLERATED_LOSS = 0.05
# A method that is so many times worse than the best throughout is not tried for single parts.
_HOPELESS = 2.0
_BIAS_IMAGES = 16


@dataclass(frozen=True)
class Candidate:
    """A way to quantize, the error of its maps on held-out good images, and the share of the damage on damaged
    ones that it loses (:class:`edge_ad_converters.parity.MapError`).

    ``methods`` gives the range method of each part (:func:`edge_ad_converters.graph.parts`).
    """

    methods: Mapping[str, RangeMethod]
    equalization: float
    good_error: float
    lost: float

    @property
    def label(self) -> str:
        """In words."""
        names = set(self.methods.values())
        words = ", ".join(f"{part}: {method}" for part, method in self.methods.items())
        text = next(iter(names)) if len(names) == 1 else words
        return f"{text}, equalized" if self.equalization else text

    @property
    def error(self) -> float:
        """Damage that saturates away counts like an error of the same share, beyond what is tolerated."""
        return self.good_error + max(0.0, self.lost - TOLERATED_LOSS)


@dataclass(frozen=True)
class Sensitivity:
    """The error of the maps where only this layer is INT8, and its share of all multiply-accumulates."""

    layer: str
    error: float
    gmac_share: float


@dataclass(frozen=True)
class CalibrationSets:
    """``uint8 1xHxWx3`` batches: ``good`` and ``damaged`` (:func:`edge_ad_converters.stress.stress_images`) give the
    ranges, ``held_out`` (good, not among them) and ``held_out_damaged`` choose."""

    good: Sequence[Image]
    damaged: Sequence[Image]
    held_out: Sequence[Image]
    held_out_damaged: Sequence[Image]


@dataclass(frozen=True)
class _Basis:
    """An equalized float graph and what its tensors do."""

    model: onnx.ModelProto
    statistics: dict[str, Statistics]


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
        self._parts = parts(model)
        reference = _engine(model)
        self._good = MapError(reference, sets.held_out)
        self._stress = MapError(reference, sets.held_out_damaged)

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that was tried, the best first: each method throughout, then each part's own."""
        named = list(dict.fromkeys(self._parts.values()))
        tried = [
            self._try(dict.fromkeys(named, method), strength)
            for strength in EQUALIZATIONS
            for method in self._methods
        ]
        best = min(tried, key=lambda c: c.error)
        hopeful = {next(iter(c.methods.values())) for c in tried if c.error <= _HOPELESS * best.error}
        for part in named:
            best = min(tried, key=lambda c: c.error)
            tried += [
                self._try({**best.methods, part: method}, best.equalization)
                for method in self._methods
                if method in hopeful and method != best.methods[part]
            ]
        return tuple(sorted(tried, key=lambda c: c.error))

    def _try(self, methods: Mapping[str, RangeMethod], strength: float) -> Candidate:
        candidate = Candidate(methods, strength, 0.0, 0.0)
        self._progress(f"INT8 ranges by {candidate.label}")
        engine = _engine(self._quantize(candidate, ()))
        return replace(
            candidate,
            good_error=self._good.of(engine),
            lost=self._stress.lost(engine, self._good.highest),
        )

    @property
    def best(self) -> Candidate:
        """The candidate whose maps are closest to the float ones."""
        return self.candidates[0]

    @property
    def headroom(self) -> float:
        """How many times as far as good images the grids of the differences reach; the larger of the two."""
        statistics = self.statistics
        reached = [
            (_difference_range(statistics[n]), statistics[n].image_reach) for n in differences(self.model)
        ]
        return max(max(-low, high) / float(reach.max() or 1.0) for (low, high), reach in reached)

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Of the activations in the best candidate's float graph."""
        return self._basis(self.best.equalization).statistics

    def build(self, in_float: Collection[str] = ()) -> onnx.ModelProto:
        """The best candidate's graph, the layers ``in_float`` left as they are."""
        basis = self._basis(self.best.equalization)
        quantized = self._quantize(self.best, in_float)
        return correct_differences(quantized, basis.model, self.sets.good[:_BIAS_IMAGES])

    @cached_property
    def sensitivity(self) -> tuple[Sensitivity, ...]:
        """Of each layer on the held-out good images, the most sensitive first."""
        names = list(self.shares)
        found = []
        for name in names:
            self._progress(f"sensitivity of {name}")
            engine = _engine(self._quantize(self.best, [n for n in names if n != name]))
            found.append(Sensitivity(name, self._good.of(engine), self.shares[name]))
        return tuple(sorted(found, key=lambda s: -s.error))

    @cached_property
    def relief(self) -> tuple[str, ...]:
        """The layers, first the one that in float, all others in INT8, brings the maps closest to the float ones.

        Not the order of the sensitivity: two layers that see the same noise, as teacher and student do, are each
        sensitive alone and cancel it together.
        """
        errors = {}
        for name in self.shares:
            self._progress(f"INT8 but for {name}")
            errors[name] = self._good.of(_engine(self._quantize(self.best, [name])))
        return tuple(sorted(errors, key=lambda name: errors[name]))

    @cached_property
    def shares(self) -> dict[str, float]:
        """Each layer's share of all multiply-accumulates."""
        costs = gmac_by_layer(self.model)
        whole = sum(costs.values())
        return {name: cost / whole for name, cost in costs.items()}

    def _quantize(self, candidate: Candidate, in_float: Collection[str]) -> onnx.ModelProto:
        basis = self._basis(candidate.equalization)
        ranges = {n: find_range(basis.statistics[n], candidate.methods[p]) for n, p in self._parts.items()}
        for name in differences(basis.model):
            ranges[name] = _difference_range(basis.statistics[name])
        means = {name: s.channel_mean for name, s in basis.statistics.items()}
        return quantize_onnx(basis.model, ranges, means, scheme=self.scheme, in_float=in_float)

    def _basis(self, strength: float) -> _Basis:
        if strength not in self._bases:
            self._progress(f"ranges{' after equalization' if strength else ''}")
            model = self.model
            if strength:
                model = equalize(model, self._basis(0.0).statistics, strength)
            tensors = [*self._parts, *(n.input[0] for n in convolutions(model))]
            self._bases[strength] = _Basis(model, observe(model, tensors, self.sets.good, self.sets.damaged))
        return self._bases[strength]


def _difference_range(statistics: Statistics) -> tuple[float, float]:
    """What damaged images reach and a margin, but at most so many times what good ones do."""
    reach = max(-statistics.low, statistics.high)
    good = float(statistics.image_reach.max())
    factor = min(MARGIN, LARGEST_HEADROOM * good / reach) if reach > 0 else 1.0
    return statistics.low * factor, statistics.high * factor


def _engine(model: onnx.ModelProto) -> Engine:
    return open_engine("ort", model.SerializeToString(), "int8")
