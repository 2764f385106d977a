"""The study of the engines as a table, and which aims are met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edge_ad_runtime.engines import Target
from tests.conversion.agreement import MAPS, SCORES, STEPS

MAX_AUROC_DROP, MAX_AUPRO_DROP, MIN_GOOD_MAP_CORRELATION = 0.002, 0.005, 0.995
# 0.998 - 0.996 is a little more than 0.002 in binary.
_DIGITS = 9


class Apart(msgspec.Struct, frozen=True):
    """How far an engine is from onnxruntime on the same graph and golden images: as in
    :class:`tests.conversion.agreement.Agreement`. ``same_file``: the target's bundle holds that very graph."""

    maps: float
    scores: float
    steps: float
    verdicts: int
    same_file: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion. Pairs are float and INT8; ``ms`` by the target's engine in both, at a ``load`` average of the
    machine before it began. ``broken`` has a sentence for each limit."""

    category: str
    target: Target
    engine: str
    stand_in: bool
    auroc: tuple[float | None, float | None]
    aupro: tuple[float | None, float | None]
    good_map_correlation: float | None
    worst_good_map_correlation: float | None
    map_correlation: float | None
    worst_map_correlation: float | None
    score_correlation: float | None
    flipped: int
    images: int
    in_float: tuple[str, ...]
    ranges: str
    broken: tuple[str, ...]
    forced: bool
    ms: tuple[float, float]
    load: float
    apart: Apart | None = None

    @property
    def name(self) -> str:
        """Category and target."""
        return f"{self.category} {self.target}"


class Failure(msgspec.Struct, frozen=True):
    """A conversion that gave no bundle, or would not have without force."""

    category: str
    target: Target
    reason: str


@dataclass(frozen=True)
class Aim:
    """``value`` of a row is to be at most ``limit``, or at least where ``least``; None does not count."""

    words: str
    value: Callable[[Row], float | None]
    limit: float
    least: bool = False

    def line(self, rows: Sequence[Row]) -> str:
        """How many rows meet it, and which do not."""
        values = [(r.name, v) for r in rows if (v := self.value(r)) is not None]
        if not values:
            return f"- {self.words}: not measured"
        missed = [f"{name} ({v:.4f})" for name, v in values if not self.met(v)]
        line = f"- {self.words}: {len(values) - len(missed)} of {len(values)}"
        return f"{line}. Not: {', '.join(missed)}" if missed else line

    def met(self, value: float) -> bool:
        """Whether a value does."""
        rounded = round(value, _DIGITS)
        return rounded >= self.limit if self.least else rounded <= self.limit


def drop(pair: tuple[float | None, float | None]) -> float | None:
    """Float less INT8; negative where INT8 is better."""
    before, after = pair
    return None if before is None or after is None else before - after


AIMS = (
    Aim(f"image AUROC drops by at most {MAX_AUROC_DROP}", lambda r: drop(r.auroc), MAX_AUROC_DROP),
    Aim(f"AUPRO drops by at most {MAX_AUPRO_DROP}", lambda r: drop(r.aupro), MAX_AUPRO_DROP),
    Aim(
        f"map correlation of good images, median, at least {MIN_GOOD_MAP_CORRELATION}",
        lambda r: r.good_map_correlation, MIN_GOOD_MAP_CORRELATION, least=True,
    ),
    Aim(
        f"the same of the worst good image, at least {MIN_GOOD_MAP_CORRELATION}",
        lambda r: r.worst_good_map_correlation, MIN_GOOD_MAP_CORRELATION, least=True,
    ),
)  # fmt: skip
BOUNDS = (
    Aim(
        f"raw maps no further from onnxruntime's than {MAPS} of the largest value",
        lambda r: r.apart.maps if r.apart else None, MAPS,
    ),
    Aim(
        f"scores no further than {SCORES} of the score or the threshold, whichever is larger",
        lambda r: r.apart.scores if r.apart else None, SCORES,
    ),
    Aim(
        f"differences no further than {STEPS} steps of their grid (root mean square of a cell)",
        lambda r: r.apart.steps if r.apart else None, STEPS,
    ),
    Aim("the same verdicts", lambda r: r.apart.verdicts if r.apart else None, 0),
    Aim(
        "the target's own bundle holds the same graph",
        lambda r: 1 - r.apart.same_file if r.apart else None, 0,
    ),
)  # fmt: skip
_HEAD = (
    "category", "target", "engine", "AUROC float", "INT8", "drop", "AUPRO float", "INT8", "drop", "map r good",
    "worst good", "map r all", "worst", "score r", "flipped", "layers in float", "ranges", "limits broken",
    "ms float", "ms INT8", "ratio", "load", "maps off ort", "scores off ort", "steps off ort",
)  # fmt: skip


def markdown(rows: Sequence[Row | Failure]) -> str:
    """A line for each conversion, what each aim came to, and what could not be measured."""
    done = [r for r in rows if isinstance(r, Row)]
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    lines += [f"| {' | '.join(_cells(r))} |" for r in done]
    whole = [r for r in done if not r.in_float]
    lines += ["", f"Aims, of {len(whole)} conversions with every layer in INT8:", ""]
    lines += [aim.line(whole) for aim in AIMS]
    if mended := [r for r in done if r.in_float]:
        lines += ["", f"Of {len(mended)} with layers in float:", ""]
        lines += [aim.line(mended) for aim in AIMS]
    if compared := [r for r in done if r.apart is not None]:
        lines += [
            "",
            f"Golden images, the graph of onnxruntime's bundle in another engine, {len(compared)} pairs:",
            "",
        ]
        lines += [bound.line(compared) for bound in BOUNDS]
    if broken := [f"- {r.name}: {text}" for r in done for text in r.broken]:
        lines += ["", "Broken limits:", "", *broken]
    if failures := [f"- {r.category} {r.target}: {r.reason}" for r in rows if isinstance(r, Failure)]:
        lines += ["", "No bundle, or none without force:", "", *failures]
    return "\n".join(lines) + "\n"


def _cells(r: Row) -> list[str]:
    apart = ["-"] * 3
    if r.apart:
        apart = [f"{r.apart.maps:.4f}", f"{r.apart.scores:.4f}", f"{r.apart.steps:.2f}"]
    return [
        r.category, r.target, f"{r.engine} in its place" if r.stand_in else r.engine, *_change(r.auroc),
        *_change(r.aupro), _number(r.good_map_correlation), _number(r.worst_good_map_correlation),
        _number(r.map_correlation), _number(r.worst_map_correlation), _number(r.score_correlation),
        f"{r.flipped} of {r.images}", ", ".join(r.in_float) or "none", r.ranges, str(len(r.broken)),
        f"{r.ms[0]:.1f}", f"{r.ms[1]:.1f}", f"{r.ms[1] / r.ms[0]:.2f}", f"{r.load:.1f}", *apart,
    ]  # fmt: skip


def _change(pair: tuple[float | None, float | None]) -> list[str]:
    change = drop(pair)
    return [*map(_number, pair), "-" if change is None else f"{change:+.4f}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
