"""The report's charts as PNG files' bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_ad.evaluation.charts import bin_edges, kind_colours, png_of
from edge_ad.report.blocks import ChartKind
from edge_ad.report.content import relative_scores
from edge_ad.report.model import GOOD, CompressionCandidate, ImageResult, Report, defined
from edge_ad_runtime.errors import InputError, MissingExtra

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
except ImportError as error:
    raise MissingExtra("matplotlib", "host", "the charts of a conversion report") from error

_DPI = 120
_FLIPPED = "#d62728"
_NO_LABEL = "#6b7280"
_PASSES = "#2e8b57"
# Of an axis of accuracies: what lies within it should not look like a difference that matters.
_SMALLEST_SPAN = 0.02
# Where the axis of map correlations may have a tick, and those that remain on a long one.
_TICKS = (
    -1,
    0,
    0.5,
    0.8,
    0.9,
    0.95,
    0.98,
    0.99,
    0.995,
    0.998,
    0.999,
    0.9995,
    0.9998,
    0.9999,
    0.99999,
    0.999999,
)
_SPARSE_TICKS = (-1, 0, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
_MOST_BARS = 40


def draw(kind: ChartKind, report: Report) -> bytes:
    """The chart of that kind."""
    if kind == "scatter":
        return scatter(report)
    if kind == "histograms":
        return histograms(report)
    if kind == "pareto":
        return pareto(report)
    return correlations(report) if kind == "correlations" else sensitivity(report)


def scatter(report: Report) -> bytes:
    """Target scores over float scores, relative to the thresholds, flipped verdicts ringed."""
    figure = Figure(figsize=(6.4, 6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    points = _points(report)
    middle, unit = _middle(report)
    values = [v for p in points for v in p[1:]]
    low, high = min([*values, middle]), max([*values, middle])
    logarithmic = low > 0 and high > 10 * middle
    if logarithmic:
        _logarithmic(axes, "x")
        _logarithmic(axes, "y")
        low, high = low / 1.15, high * 1.15
    else:
        margin = 0.05 * (high - low) or 1.0
        low, high = low - margin, high + margin
    for x, y in ((low, middle), (middle, low)):
        width, height = ((high if a == middle else middle) - a for a in (x, y))
        axes.fill_between([x, x + width], y, y + height, color=_FLIPPED, alpha=0.07, linewidth=0)
    axes.plot([low, high], [low, high], color="grey", linewidth=0.8)
    axes.axvline(middle, color="black", linewidth=1)
    axes.axhline(middle, color="black", linewidth=1)
    for name, marker, colour, chosen in _groups(points):
        axes.scatter(
            [p[1] for p in chosen],
            [p[2] for p in chosen],
            s=22,
            marker=marker,
            color=colour,
            alpha=0.7,
            linewidths=0,
            label=f"{name} ({len(chosen)})",
        )
    if flipped := [p for p in points if p[0].flipped]:
        axes.scatter(
            [p[1] for p in flipped],
            [p[2] for p in flipped],
            s=110,
            facecolors="none",
            edgecolors=_FLIPPED,
            linewidths=1.5,
            label=f"flipped ({len(flipped)})",
        )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel(f"float score {unit}")
    axes.set_ylabel(f"target score {unit}")
    _legend(axes, "upper left")
    return png_of(figure)


def histograms(report: Report) -> bytes:
    """The scores of both models, relative to the thresholds, one above the other."""
    figure = Figure(figsize=(8, 5), dpi=_DPI, layout="constrained")
    points = _points(report)
    middle, unit = _middle(report)
    edges, logarithmic = bin_edges([v for p in points for v in p[1:]], middle)
    upper = figure.add_subplot(2, 1, 1)
    lower = figure.add_subplot(2, 1, 2, sharex=upper, sharey=upper)
    groups = _groups(points)
    for axes, name, side in ((upper, "float", 0), (lower, "target", 1)):
        if groups:
            axes.hist(
                [[p[1:][side] for p in chosen] for _, _, _, chosen in groups],
                bins=edges,
                stacked=True,
                color=[colour for _, _, colour, _ in groups],
                label=[f"{kind} ({len(chosen)})" for kind, _, _, chosen in groups],
            )
        if logarithmic:
            _logarithmic(axes, "x")
        axes.axvline(middle, color="black", linewidth=1.5, label="threshold")
        axes.set_ylabel(f"{name}: images")
    upper.yaxis.set_major_locator(MaxNLocator(integer=True))
    upper.tick_params(labelbottom=False)
    lower.set_xlabel(f"score {unit}")
    _legend(upper, "upper right")
    return png_of(figure)


def correlations(report: Report) -> bytes:
    """How many images have which map correlation, on an axis stretched towards 1."""
    figure = Figure(figsize=(8, 3.2), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    images = [(i, c) for i in report.images if (c := defined(i.map_correlation)) is not None]
    limit = report.limits.min_map_correlation
    shown = [c for _, c in images] + ([] if limit is None else [limit])
    places = _stretched(shown or [0.9])
    edges = np.linspace(float(places.min()) - 0.1, float(places.max()) + 0.1, 41)
    if groups := _groups([(i, c, c) for i, c in images]):
        axes.hist(
            [_stretched([p[1] for p in chosen]) for _, _, _, chosen in groups],
            bins=edges.tolist(),
            stacked=True,
            color=[colour for _, _, colour, _ in groups],
            label=[f"{kind} ({len(chosen)})" for kind, _, _, chosen in groups],
        )
    if limit is not None:
        axes.axvline(
            float(_stretched([limit])[0]),
            color="black",
            linestyle="--",
            linewidth=1,
            label=f"limit {limit:g}",
        )
    axes.set_xlim(float(edges[0]), float(edges[-1]))
    labels = _TICKS if edges[-1] - edges[0] < 3 else _SPARSE_TICKS
    ticks = dict(zip(_stretched(labels).tolist(), labels, strict=True))
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{ticks.get(place, 0):g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("map correlation")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("images")
    _legend(axes, "upper left")
    return png_of(figure)


def sensitivity(report: Report) -> bytes:
    """The map error that each layer makes alone; the forty largest."""
    layers = [(s, e) for s in report.sensitivity if (e := defined(s.map_error)) is not None]
    layers = sorted(layers, key=lambda pair: -pair[1])[:_MOST_BARS]
    figure = Figure(figsize=(8, 1 + 0.22 * max(len(layers), 4)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(layers)), [e for _, e in layers], color="#4c72b0", edgecolor="white")
    for bar, (layer, _) in zip(bars, layers, strict=True):
        if layer.left_float:
            bar.set_hatch("////")
            bar.set_facecolor("#dd8452")
    # A dollar sign would begin a formula.
    names = [s.layer.encode("ascii", "replace").decode()[-60:].replace("$", r"\$") for s, _ in layers]
    axes.set_yticks(range(len(layers)), names, fontsize=8)
    axes.set_ylim(max(len(layers), 1) - 0.4, -0.6)
    axes.set_xlabel("relative map error if only this layer is INT8")
    return png_of(figure)


def pareto(report: Report) -> bytes:
    """Accuracy over time of each cut, a panel for each measure that the images give.

    Raises:
        InputError: the report has no compression.
    """
    if report.compression is None:
        raise InputError("the report has no compression to draw")
    tried = (report.compression.uncompressed, *report.compression.candidates)
    panels = [
        (label, values)
        for label, values in (
            ("image AUROC", [defined(c.image_auroc) for c in tried]),
            ("AUPRO", [defined(c.aupro) for c in tried]),
        )
        if any(v is not None for v in values)
    ]
    # Without labels the maps tell, and the uncompressed ones are those of the comparison.
    panels = panels or [("map correlation", [1.0, *(defined(c.good_map_correlation) for c in tried[1:])])]
    figure = Figure(figsize=(8, 0.4 + 3.4 * len(panels)), dpi=_DPI, layout="constrained")
    for place, (label, values) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, place + 1)
        _front(axes, [(c, v) for c, v in zip(tried, values, strict=True)])
        axes.set_ylabel(f"{label}, float")
    axes.set_xlabel(f"ms per image, {report.target.precision} in {report.target.engine}, this machine")
    return png_of(figure)


def _front(axes: Axes, points: Sequence[tuple[CompressionCandidate, float | None]]) -> None:
    """The marks with their numbers, and the line through those that no other beats in both."""
    front: list[tuple[float, float]] = []
    for number, (candidate, value) in enumerate(points):
        if value is None:
            continue
        x = candidate.latency_ms
        colour = _PASSES if candidate.passes else _FLIPPED
        axes.plot(
            [x], [value], "o", color=colour, fillstyle="full" if candidate.passes else "none", markersize=7
        )
        if candidate.chosen:
            axes.plot([x], [value], "o", color="black", fillstyle="none", markersize=13)
        axes.annotate(str(number), (x, value), xytext=(6, 5), textcoords="offset points", fontsize=8)
        if candidate.passes:
            front.append((x, value))
    best = [p for p in front if not any(o != p and o[0] <= p[0] and o[1] >= p[1] for o in front)]
    axes.plot(*zip(*sorted(best), strict=True), color=_PASSES, linewidth=1, alpha=0.6, zorder=0)
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    low, high = axes.get_ylim()
    if (missing := _SMALLEST_SPAN - (high - low)) > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.25)


_Point = tuple[ImageResult, float, float]


def _points(report: Report) -> list[_Point]:
    """The images with finite scores, relative to each model's threshold."""
    a, b = report.float_.calibrated_threshold, report.target.calibrated_threshold
    found = []
    for image in report.images:
        x, y = defined(image.float_score), defined(image.target_score)
        if x is None or y is None:
            continue
        found.append((image, x / a, y / b) if relative_scores(report) else (image, x - a, y - b))
    return found


def _middle(report: Report) -> tuple[float, str]:
    """Where the threshold lies among the points of :func:`_points`, and their unit."""
    return (1.0, "/ threshold") if relative_scores(report) else (0.0, "- threshold")


def _groups(points: Sequence[_Point]) -> list[tuple[str, str, str, list[_Point]]]:
    """Good, defective and unlabelled images, those that there are: name, marker, colour, points."""
    good_colour, defect_colour = kind_colours([GOOD, "defect"])
    good = [p for p in points if p[0].kind == GOOD]
    unlabelled = [p for p in points if p[0].kind is None]
    defects = [p for p in points if p[0].kind not in (None, GOOD)]
    groups = [
        ("good", "o", good_colour, good),
        ("defect", "^", defect_colour, defects),
        ("no label", "s", _NO_LABEL, unlabelled),
    ]
    return [group for group in groups if group[3]]


def _stretched(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Correlations to places on the axis: each further 9 of 0.9, 0.99, 0.999 is one unit to the right."""
    return -np.log10(np.maximum(1 - np.asarray(values, np.float64), 1e-6))


def _logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _legend(axes: Axes, place: Literal["upper left", "upper right"]) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc=place, fontsize=8, framealpha=0.9)
