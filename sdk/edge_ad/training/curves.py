"""The training's metrics as a picture."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edge_ad.training.state import read_metrics
from edge_ad_runtime.files import write_atomically

CURVES = "curves.png"
_LOSSES = {"hard": "hard features", "penalty": "penalty images", "ae": "autoencoder", "stae": "student of it"}


def draw_curves(out: Path) -> None:
    """Write ``curves.png`` from ``metrics.jsonl``: losses, learning rate and speed, validation figures."""
    lines = [line for line in read_metrics(out) if line.get("step")]
    if not lines:
        return
    figure = Figure(figsize=(9, 9), layout="constrained")
    losses, validation, speed = figure.subplots(3, 1, sharex=True)
    for key, label in _LOSSES.items():
        points = [(line["step"], v) for line in lines if (v := line.get(key)) is not None and v > 0]
        if points:
            losses.semilogy(*zip(*points, strict=True), label=label)
    losses.set_ylabel("loss")
    losses.legend()
    points = [(line["step"], v) for line in lines if (v := line.get("tail")) is not None]
    if points:
        validation.semilogy(*zip(*points, strict=True), label="0.995 quantile of the good validation maps")
        validation.legend()
    validation.set_ylabel("tail")
    points = [(line["step"], v) for line in lines if (v := line.get("auroc")) is not None]
    if points:
        twin = validation.twinx()
        twin.plot(*zip(*points, strict=True), color="tab:green", label="image AUROC")
        twin.set_ylabel("image AUROC on the labelled validation set")
    for key, label, axis in (
        ("images_per_s", "images a second", speed),
        ("rate", "learning rate", speed.twinx()),
    ):
        points = [(line["step"], v) for line in lines if (v := line.get(key)) is not None]
        axis.plot(*zip(*points, strict=True), color="tab:blue" if axis is speed else "tab:red")
        axis.set_ylabel(label, color="tab:blue" if axis is speed else "tab:red")
    speed.set_xlabel("step")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    write_atomically(out / CURVES, buffer.getvalue())
