"""The table of a benchmark: mean and spread over the seeds for each category, and the mean over all."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edge_ad.benchmark.records import Figures, Result, plain_options
from edge_ad.training.options import TrainOptions

# Figure, its head in the table, its format.
_COLUMNS = (
    ("image_auroc", "image AUROC", ".4f"),
    ("image_ap", "AP", ".4f"),
    ("image_f1", "best F1", ".4f"),
    ("pixel_auroc", "pixel AUROC", ".4f"),
    ("aupro", "AUPRO", ".4f"),
    ("spro", "sPRO", ".4f"),
    ("int8_image_auroc", "INT8 image AUROC", ".4f"),
    ("int8_aupro", "INT8 AUPRO", ".4f"),
    ("train_seconds", "train s", ".0f"),
    ("steps", "steps", ".0f"),
)
# Columns that only some benchmarks have.
_OPTIONAL = ("spro", "int8_image_auroc", "int8_aupro")


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over ``count`` values (of a sample; None of a single one)."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """A category, or the mean over them: each figure over the seeds; None where no seed has it."""

    name: str
    seeds: tuple[int, ...]
    figures: dict[str, Spread | None]


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and deviation; None of nothing."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def rows(results: Sequence[Result]) -> list[Row]:
    """A row for each category, in the order of the results, which are of one benchmark."""
    categories = list(dict.fromkeys(r.category for r in results))
    return [_row(name, [r for r in results if r.category == name]) for name in categories]


def mean_row(results: Sequence[Result]) -> Row:
    """The mean over the categories: for each seed the mean over the categories that have the figure, then mean
    and spread of these over the seeds.

    Only seeds that all categories have count, so that each seed's mean is over the same categories; where no
    seed is complete, it is the mean of the categories' means, without a spread.
    """
    by_category = {row.name: set(row.seeds) for row in rows(results)}
    complete = sorted(set.intersection(*by_category.values())) if by_category else []
    figures: dict[str, Spread | None] = {}
    for name in Figures.__struct_fields__:
        if complete:
            means = [m for s in complete if (m := _mean(results, name, s)) is not None]
        else:
            of_rows = [f.mean for row in rows(results) if (f := row.figures[name]) is not None]
            means = [statistics.fmean(of_rows)] if of_rows else []
        figures[name] = spread(means)
    return Row(f"mean of {len(by_category)}", tuple(complete), figures)


def markdown(results: Sequence[Result], options: TrainOptions) -> str:
    """The table in Markdown, several lines."""
    body = rows(results)
    columns = [
        column
        for column in _COLUMNS
        if column[0] not in _OPTIONAL or any(row.figures[column[0]] is not None for row in body)
    ]
    seeds = sorted({r.seed for r in results})
    several = " (mean ± standard deviation)" if len(seeds) > 1 else ""
    lines = [
        f"Options: {_changed(options)}. Seeds: {', '.join(map(str, seeds)) or 'none'}{several}.",
        "",
        f"| category | seeds | {' | '.join(head for _, head, _ in columns)} |",
        "|---|---" + "|---:" * len(columns) + "|",
    ]
    for row in [*body, mean_row(results)] if body else []:
        cells = [_cell(row.figures[name], form) for name, _, form in columns]
        lines.append(f"| {row.name} | {len(row.seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_dict(results: Sequence[Result], options: TrainOptions, failures: Sequence[str]) -> dict[str, Any]:
    """The same for a program, with every single result."""
    return {
        "options": plain_options(options),
        "rows": msgspec.to_builtins(rows(results)),
        "mean": msgspec.to_builtins(mean_row(results)) if results else None,
        "results": msgspec.to_builtins(list(results)),
        "failures": list(failures),
    }


def _row(name: str, results: Sequence[Result]) -> Row:
    figures = {}
    for figure in Figures.__struct_fields__:
        values = [getattr(r.figures, figure) for r in results]
        figures[figure] = spread([v for v in values if v is not None])
    return Row(name, tuple(r.seed for r in results), figures)


def _mean(results: Sequence[Result], figure: str, seed: int) -> float | None:
    values = [getattr(r.figures, figure) for r in results if r.seed == seed]
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _cell(value: Spread | None, form: str) -> str:
    if value is None:
        return "-"
    return f"{value.mean:{form}}" + ("" if value.deviation is None else f" ± {value.deviation:{form}}")


def _changed(options: TrainOptions) -> str:
    """The options that are not the default ones."""
    given, default = plain_options(options), plain_options(TrainOptions())
    changed = [f"{name} {value}" for name, value in given.items() if value != default[name]]
    return ", ".join(changed) or "the default ones"
