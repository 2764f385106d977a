"""Curves of an evaluation: the histogram of the scores and the ROC curve."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence

import numpy as np

from edge_ad.evaluation.evaluate import Evaluation
from edge_ad.evaluation.metrics import image_roc
from edge_ad_runtime.errors import MissingExtra
from edge_ad_runtime.images import decode_image
from edge_ad_runtime.types import Image

try:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtra("matplotlib", "host", "the pictures of an evaluation") from error

_BINS = 40


def histogram(evaluation: Evaluation) -> Image:
    """How the scores of each kind lie about the threshold in force, as ``uint8 HxWx3`` RGB."""
    outcome = evaluation.outcome
    kinds: dict[str, list[float]] = {"good": []} if evaluation.good else {}
    for scored in evaluation.images:
        kinds.setdefault(scored.image.kind, []).append(scored.score)
    scores = [s.score for s in evaluation.images]
    edges, logarithmic = bin_edges(
        scores, statistics.median(scores) if outcome is None else outcome.threshold
    )
    figure = Figure(figsize=(9, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(
        list(kinds.values()),
        bins=edges,
        stacked=True,
        label=[f"{kind} ({len(values)})" for kind, values in kinds.items()],
        color=kind_colours(list(kinds)),
    )
    if logarithmic:
        axes.set_xscale("log")
    if outcome is not None and outcome.origin != "best-f1":
        label = f"{outcome.origin} threshold {outcome.threshold:.3f}"
        axes.axvline(outcome.threshold, color="black", linewidth=1.5, label=label)
    if evaluation.threshold is not None:
        axes.axvline(
            evaluation.threshold,
            color="black",
            linewidth=1,
            linestyle="--",
            label=f"best F1 {evaluation.image_f1:.3f} at {evaluation.threshold:.3f}",
        )
    axes.set_xlabel("score")
    axes.set_ylabel("images")
    axes.set_title("Scores of the test images; right of a threshold is rejected")
    axes.legend()
    return decode_image(png_of(figure))


def bin_edges(scores: Sequence[float], middle: float) -> tuple[list[float], bool]:
    """Edges of about forty bins, one of them at ``middle`` so that no bar stands on both sides of it, and
    whether they are spaced logarithmically (scores far above it)."""
    values = np.asarray([*scores, middle])
    logarithmic = bool(values.min() > 0 and values.max() > 10 * middle)
    if logarithmic:
        values = np.log(values)
    # The middle is the last value; without any spread one bin of width 1 is left on each side.
    width = float(np.ptp(values)) / _BINS or 1.0
    first = int(np.floor((values.min() - values[-1]) / width)) - 1
    last = int(np.ceil((values.max() - values[-1]) / width)) + 1
    edges = values[-1] + width * np.arange(first, last + 1)
    return (np.exp(edges) if logarithmic else edges).tolist(), logarithmic


def kind_colours(kinds: Sequence[str]) -> list[str]:
    """Green for good images, violet to yellow for the defects."""
    defects = [kind for kind in kinds if kind != "good"]
    places = np.linspace(0.15, 0.85, len(defects))
    warm = {kind: to_hex(colormaps["plasma"](float(p))) for kind, p in zip(defects, places, strict=True)}
    return ["#2e8b57" if kind == "good" else warm[kind] for kind in kinds]


def roc_picture(evaluation: Evaluation) -> Image | None:
    """The ROC curve of the image scores as ``uint8 HxWx3`` RGB; None with one class only."""
    scores = [s.score for s in evaluation.images]
    curve = image_roc(scores, [s.image.defect for s in evaluation.images])
    if curve is None:
        return None
    figure = Figure(figsize=(6, 6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="lightgrey", linewidth=1)
    axes.plot(*curve, color="#30308f", linewidth=2, label=f"image AUROC {evaluation.image_auroc:.4f}")
    if (c := evaluation.outcome) is not None:
        axes.plot(
            [c.false_rejects / c.good],
            [1 - c.escapes / c.defects],
            "o",
            color="crimson",
            label=f"{c.origin} threshold {c.threshold:.3f}",
        )
    axes.set_xlabel("good images rejected (share)")
    axes.set_ylabel("defective images rejected (share)")
    axes.set_aspect("equal")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc="lower right")
    return decode_image(png_of(figure))


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file's bytes."""
    encoded = io.BytesIO()
    # A Figure of its own, without pyplot, draws with Agg and holds no global state.
    figure.savefig(encoded, format="png")
    return encoded.getvalue()
