"""What the table knows of each model: its cost, its times, and its accuracy on each run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tests.studies.compression.cost import Cost
from tests.studies.peers.latency import Latencies, Latency

Pair = tuple[float | None, float | None]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one run's test images.

    ``row`` and ``words`` name the model in the table, ``model`` its files among the run's, ``run`` the run. Pairs are the run's float nets, uncut, and this model;
    ``kinds`` has the image AUROC of each kind of defect. ``shape`` says what was cut, ``lost`` is the share of
    the map's cells that damage lifted and no longer does; ``broken`` has a sentence for each limit of a conversion
    that it breaks.
    """

    row: str
    words: str
    model: str
    run: str
    data: str
    seed: int
    image_auroc: Pair
    aupro: Pair
    kinds: dict[str, Pair]
    cost: Cost
    shape: str = ""
    lost: float | None = None
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table; ``figures`` has one entry for each run, ``latencies`` one for each engine."""

    key: str
    words: str
    cost: Cost | None
    latencies: dict[str, Latency]
    figures: tuple[Figures, ...]

    def mean(self, value: Callable[[Figures], float | None]) -> float | None:
        """The mean of a figure over the runs that have it."""
        known = [v for f in self.figures if (v := value(f)) is not None]
        return statistics.mean(known) if known else None

    def spread(self, value: Callable[[Figures], float | None]) -> float | None:
        """The mean over the data sets of the standard deviation over their runs; None without a second run."""
        by_set = defaultdict(list)
        for f in self.figures:
            if (v := value(f)) is not None:
                by_set[f.data].append(v)
        deviations = [statistics.stdev(v) for v in by_set.values() if len(v) > 1]
        return statistics.mean(deviations) if deviations else None


def worst_kind(figures: Figures) -> float | None:
    """The lowest image AUROC of a kind of defect."""
    return min((v for _, v in figures.kinds.values() if v is not None), default=None)


def change(pair: Pair) -> float | None:
    """This model less the float nets."""
    before, after = pair
    return None if before is None or after is None else after - before


def lost_most(figures: Sequence[Figures]) -> tuple[float, str] | None:
    """The kind of defect whose AUROC fell most below the float nets', with its run."""
    losses = [
        (c, f"{kind}, {f.run}")
        for f in figures
        for kind, pair in f.kinds.items()
        if (c := change(pair)) is not None
    ]
    return min(losses, default=None)


def latency_rows(latencies: Latencies | None) -> dict[str, dict[str, Latency]]:
    """Times by row, then by what follows the row's key in the model's name: the engine, or the engine and ``fp32``."""
    found: dict[str, dict[str, Latency]] = defaultdict(dict)
    for latency in latencies.models if latencies else ():
        key, _, engine = latency.model.partition(" ")
        found[key][engine] = latency
    return found


def merge(
    known: Sequence[tuple[str, str, Cost | None]],
    latencies: Mapping[str, dict[str, Latency]],
    figures: Sequence[Figures],
) -> list[Row]:
    """A row for each known model (key, words, cost), then one for each further one that was measured."""
    measured: dict[str, list[Figures]] = defaultdict(list)
    for f in figures:
        measured[f.row].append(f)
    rows = []
    for key, words, cost in known:
        own = measured.pop(key, [])
        rows.append(Row(key, words, cost or _mean_cost(own), latencies.get(key, {}), tuple(own)))
    for key, own in measured.items():
        rows.append(Row(key, own[0].words, _mean_cost(own), latencies.get(key, {}), tuple(own)))
    return rows


def _mean_cost(figures: Sequence[Figures]) -> Cost | None:
    if not figures:
        return None
    return Cost(
        statistics.mean(f.cost.gmac for f in figures),
        round(statistics.mean(f.cost.parameters for f in figures)),
    )
