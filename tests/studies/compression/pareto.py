"""Accuracy against latency as a picture, the models that nothing beats in both joined by a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge_ad.evaluation.charts import png_of
from tests.studies.compression.rows import Figures, Row

_DPI = 120
_ON, _OFF = "#30308f", "#9ca3af"
Point = tuple[float, float, str]


def front(points: Sequence[Point]) -> list[Point]:
    """Of (ms, accuracy, words) those to which no other is at once as fast and as accurate, by rising ms."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found


def draw(rows: Sequence[Row], engine: str) -> bytes | None:
    """Image AUROC and AUPRO over the engine's median time, as a PNG file; None where no row has both."""
    values: tuple[tuple[str, Callable[[Figures], float | None]], ...] = (
        ("image AUROC", lambda f: f.image_auroc[1]),
        ("AUPRO", lambda f: f.aupro[1]),
    )
    figure = Figure(figsize=(11, 5), dpi=_DPI, layout="constrained")
    drawn = False
    for place, (name, value) in enumerate(values):
        points = [
            (t.engine_ms.p50, mean, row.words)
            for row in rows
            if (t := row.latencies.get(engine)) is not None and (mean := row.mean(value)) is not None
        ]
        if points:
            _points(figure.add_subplot(1, len(values), place + 1), points, name, engine)
            drawn = True
    return png_of(figure) if drawn else None


def _points(axes: Axes, points: Sequence[Point], name: str, engine: str) -> None:
    best = front(points)
    axes.plot([p[0] for p in best], [p[1] for p in best], color=_ON, linewidth=1)
    for point in points:
        colour = _ON if point in best else _OFF
        axes.plot(point[0], point[1], "o", color=colour, markersize=5)
        axes.annotate(
            point[2].replace("$", r"\$"),
            point[:2],
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
            color=colour,
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"INT8, {engine}: ms for an image")
    axes.set_ylabel(f"{name}, mean over the runs")
