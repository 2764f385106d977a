"""Which of the measured candidates is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.engines import EngineOptions
from edge_ad_runtime.errors import BundleError
from edge_ad_runtime.tuning.measure import Measured

Criterion = Literal["median", "p99"]

LEAST_NOISE, MOST_NOISE = 0.02, 0.05
"""Between these, what counts as the same speed follows from the scatter; a machine too busy to tell 5 % apart is no reason
to give away more than that."""
# Half the notch of a box plot, in interquartile ranges over the root of the count: medians further apart than this differ at
# about 95 % (McGill, Tukey and Larsen, "Variations of Box Plots", The American Statistician 32, 1978).
_NOTCH = 1.57
SCATTER_WORTH_TELLING = 0.2


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate in the table: milliseconds, and the median over the rounds of its time divided by that of the defaults
    in the same round (with criterion ``p99`` the ratio of both 99th percentiles); all None where it ``failed``."""

    options: EngineOptions
    p50_ms: float | None = None
    p99_ms: float | None = None
    ratio: float | None = None
    failed: str | None = None


def timings(measured: Sequence[Measured], by: Criterion) -> list[Timing]:
    """The table of candidates that were measured together, the first of which are the defaults.

    Raises:
        BundleError: the defaults failed.
    """
    reference = measured[0]
    if reference.failed is not None:
        raise BundleError(f"the bundle does not run here: {reference.failed}")
    return [
        Timing(options=m.options, failed=m.failed)
        if m.failed is not None
        else Timing(
            options=m.options,
            p50_ms=float(np.median(m.times_ns)) / 1e6,
            p99_ms=_p99(m) / 1e6,
            ratio=_ratio(m, reference, by),
        )
        for m in measured
    ]


def choose(measured: Sequence[Measured], by: Criterion, cores: int) -> EngineOptions:
    """The fastest candidate; of those that are as fast but for noise, the one with the fewest threads, then the one
    nearest to the defaults.

    Two are as fast when the median over the rounds of the ratio of their times exceeds 1 by no more than the noise: the
    half notch of that ratio, at least 2 % and at most 5 %. With ``p99`` the ratio is that of the 99th percentiles, and the
    noise 5 %: a percentile so near the maximum tells no less apart.

    Args:
        measured: candidates that were measured together, at least one of which did not fail.
        by: what is compared.
        cores: threads of a candidate that does not say.
    """
    working = [m for m in measured if m.failed is None]
    # In ratios of one round, for the machine's drift is in the times.
    best = min(working, key=lambda m: _ratio(m, working[0], by))
    same = [m for m in working if m is best or _ratio(m, best, by) <= 1 + _noise(m, best, by)]
    return min(
        same, key=lambda m: (m.options.threads or cores, _changes(m.options), _ratio(m, best, by))
    ).options


def better_than(base: EngineOptions, measured: Sequence[Measured], by: Criterion) -> list[EngineOptions]:
    """The candidates that are faster than the base by more than noise, the fastest first."""
    reference = next(m for m in measured if m.options == base)
    ratios = {
        m.options: _ratio(m, reference, by)
        for m in measured
        if m.failed is None and _ratio(m, reference, by) < 1 - _noise(m, reference, by)
    }
    return sorted(ratios, key=lambda options: ratios[options])


def scatter(measured: Measured) -> float:
    """The interquartile range of the times over their median."""
    low, middle, high = np.percentile(measured.times_ns, (25, 50, 75))
    return float((high - low) / middle)


def _p99(measured: Measured) -> float:
    return float(np.percentile(measured.times_ns, 99, method="higher"))


def _ratio(one: Measured, other: Measured, by: Criterion) -> float:
    if by == "p99":
        return _p99(one) / _p99(other)
    return float(np.median(_pairs(one, other)))


def _noise(one: Measured, other: Measured, by: Criterion) -> float:
    if by == "p99":
        return MOST_NOISE
    low, high = np.percentile(_pairs(one, other), (25, 75))
    notch = _NOTCH * float(high - low) / len(one.times_ns) ** 0.5
    return float(min(max(LEAST_NOISE, notch), MOST_NOISE))


def _pairs(one: Measured, other: Measured) -> npt.NDArray[np.float64]:
    pairs: npt.NDArray[np.float64] = np.asarray(one.times_ns, float) / np.asarray(other.times_ns, float)
    return pairs


def _changes(options: EngineOptions) -> int:
    """How much is not as the engine has it by default."""
    plain = EngineOptions()
    changed = int(options.cpus is not None)
    for engine in ("ort", "openvino", "tflite"):
        own, default = getattr(options, engine), getattr(plain, engine)
        changed += sum(getattr(own, name) != getattr(default, name) for name in own.__struct_fields__)
    return changed
