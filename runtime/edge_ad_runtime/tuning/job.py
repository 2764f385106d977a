"""The whole measurement: threads first, then what else can be changed, then what was found together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from edge_ad_runtime.bundle import Bundle
from edge_ad_runtime.cores import cpu_model
from edge_ad_runtime.engines import EngineOptions, engine_name
from edge_ad_runtime.errors import BundleError, InputError
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tuning.candidates import Layout, combination, first_candidates, this_machine, variants
from edge_ad_runtime.tuning.choice import Criterion, better_than, choose, scatter, timings
from edge_ad_runtime.tuning.measure import Measured, measure
from edge_ad_runtime.tuning.store import Tuning

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """The choice, and how much the times of the defaults scattered: the interquartile range over the median."""

    tuning: Tuning
    scatter: float


def tune(
    bundle: Bundle,
    *,
    rounds: int,
    by: Criterion = "median",
    stop: StopRequest | None = None,
    progress: Progress = lambda _stage, _done, _of: None,
    layout: Layout | None = None,
) -> Outcome:
    """Measure the candidates on the bundle's golden samples and choose one (:func:`edge_ad_runtime.tuning.choice.choose`).

    The defaults are measured in every stage beside the others, so each ratio to them is one of the same minutes.

    Args:
        bundle: what is tuned; nothing is written.
        rounds: runs of each candidate in each stage, at least 2.
        by: the median, or the 99th percentile, which needs 100 rounds to be more than the maximum.
        stop: ends the measurement.
        progress: is told the stage, the runs done in it and their number.
        layout: the machine's cores; None looks them up.

    Raises:
        Stopped: it was asked to stop.
        BundleError: the bundle has no golden samples, or does not run here with the engine's defaults.
        InputError: it is of a target that does not compute on the CPU, or there are too few rounds.
        MissingExtra: the engine's package is not installed.
    """
    target = bundle.manifest.target
    engine = engine_name(target)
    if not bundle.golden:
        raise BundleError(f"{bundle.path}: has no golden samples, so no option could be checked against them")
    if rounds < 2:
        raise InputError("tuning needs at least two rounds")
    stop, layout = stop or StopRequest(), layout or this_machine()
    cores = len(layout.cores)

    def stage(name: str, candidates: list[EngineOptions]) -> list[Measured]:
        done, total = 0, rounds * len(candidates)
        progress(name, done, total)

        def after_run() -> None:
            nonlocal done
            done += 1
            progress(name, done, total)

        return measure(bundle, candidates, rounds, stop, after_run)

    plain = EngineOptions()
    first = stage("threads", first_candidates(target, layout))
    table = {timing.options: timing for timing in timings(first, by)}
    base = choose(first, by, cores)
    second = stage("options", _unique(plain, base, *variants(target, base, layout)))
    table |= {timing.options: timing for timing in timings(second, by)}
    last = second
    together = combination(base, better_than(base, second, by))
    if together is not None:
        finalists = _unique(plain, base, *better_than(base, second, by), together)
        last = stage("together", finalists)
        table |= {timing.options: timing for timing in timings(last, by)}
    tuning = Tuning(
        bundle=bundle.id,
        engine=engine,
        cpu=cpu_model(),
        cores=cores,
        options=choose(last, by, cores),
        by=by,
        rounds=rounds,
        candidates=tuple(table.values()),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return Outcome(tuning, scatter(first[0]))


def _unique(*candidates: EngineOptions) -> list[EngineOptions]:
    return list(dict.fromkeys(candidates))
