"""Pictures of an evaluation for a person to look at: overlays, histogram, ROC curve, the worst mistakes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edge_ad.evaluation.evaluate import Evaluation, ScoredImage, image_mask
from edge_ad.evaluation.metrics import image_roc
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.files import folder_written_atomically
from edge_ad_runtime.images import decode_image, read_image
from edge_ad_runtime.placement import inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec, resize
from edge_ad_runtime.types import FloatArray, Image

try:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure
    from tqdm import tqdm
except ImportError as error:
    raise MissingExtra("matplotlib", "host", "the pictures of an evaluation") from error

PANEL_SIDE = 384
"""Longer side of an image in an overlay, in pixels."""
_BAR = 34
_GAP = 6
_COLOUR_BAR = 10
_BACKGROUND = (24, 24, 24)
_WHITE, _GREY, _RED, _GREEN = (255, 255, 255), (170, 170, 170), (255, 96, 96), (96, 220, 96)
_CYAN = (0, 229, 255)
_MISTAKES = 12
_BINS = 40


def colour_level(values: FloatArray, threshold: float) -> FloatArray:
    """Values of combined maps to colours from 0 to 1, the same for all pictures of a model.

    With a positive threshold ``t`` it is ``v / (v + t)``: 0 (the 0.9 quantile of good images' cells) and
    less is 0, the threshold a half, and the peak of the strongest defect can still be told from its
    surroundings. A threshold that is not positive (given by hand) is a half too, a unit above it 1.
    """
    if threshold > 0:
        positive = np.maximum(values, 0)
        return np.asarray(positive / (positive + np.float32(threshold)), np.float32)
    return np.asarray(np.clip((values - threshold + 1) / 2, 0, 1), np.float32)


def check_folder(folder: Path) -> None:
    """Before hours of work: the folder for the pictures must be new or empty.

    Raises:
        InputError: it is not.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already and is not an empty folder; remove it or choose another")


def write_pictures(
    folder: Path, evaluation: Evaluation, preprocess: PreprocessSpec, *, progress: bool = False
) -> None:
    """Fill a new folder, which appears only when it is complete.

    ``overlays/KIND/NAME.png`` for each image, ``histogram.png``, ``roc.png`` (if there are good and
    defective images), ``mistakes.png`` and ``evaluation.json``.

    Raises:
        InputError: the folder is not new or empty.
        ImageError: an image or a mask cannot be read again.
    """
    check_folder(folder)
    stems = Counter((s.image.kind, s.image.path.stem) for s in evaluation.images)
    with folder_written_atomically(folder) as part:
        for scored in tqdm(evaluation.images, desc="drawing", unit="image", disable=not progress):
            source = scored.image.path
            # a.png and a.jpg must not share a name.
            name = source.stem if stems[scored.image.kind, source.stem] == 1 else source.name
            path = part / "overlays" / scored.image.kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_png(path, overlay(scored, preprocess, evaluation.calibrated.threshold))
        _write_png(part / "histogram.png", histogram(evaluation))
        if (curve := roc_picture(evaluation)) is not None:
            _write_png(part / "roc.png", curve)
        _write_png(part / "mistakes.png", contact_sheet(evaluation, preprocess))
        encoded = msgspec.json.format(msgspec.json.encode(evaluation.as_dict()), indent=2)
        (part / "evaluation.json").write_bytes(encoded + b"\n")


def overlay(scored: ScoredImage, preprocess: PreprocessSpec, threshold: float) -> Image:
    """The image with its mask's outline, beside it the anomaly map over the image in grey.

    Returns ``uint8 HxWx3`` RGB. The map's colours are those of :func:`colour_level`; the white line is where
    it crosses the threshold (as does the tick of the colour bar), the cyan one the mask's outline.

    Raises:
        ImageError: the image or its mask cannot be read.
    """
    image = read_image(scored.image.path)
    height, width = _panel_size(*image.shape[:2])
    plain = resize(image, height, width)
    heat = _heat(scored, preprocess, image, threshold)
    mask = image_mask(scored)
    for panel in (plain, heat):
        if mask is not None:
            _outline(panel, mask.astype(np.uint8), _CYAN)
    gap = np.full((height, _GAP, 3), _BACKGROUND, np.uint8)
    panels = np.hstack([plain, gap, heat, gap, _colour_bar(height)])
    return np.vstack([_caption(panels.shape[1], scored, threshold), panels])


def _panel_size(height: int, width: int) -> tuple[int, int]:
    scale = PANEL_SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _heat(scored: ScoredImage, preprocess: PreprocessSpec, image: Image, threshold: float) -> Image:
    """The anomaly map in colours over the grey image, at the panel's size; grey outside the region."""
    height, width = image.shape[:2]
    region = inspected_region(preprocess, height, width)
    rows = slice(region.y, region.y + region.height)
    columns = slice(region.x, region.x + region.width)
    placed = place_map(scored.anomaly_map, preprocess, height, width)
    colours = _colours(colour_level(placed, threshold))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    heat = np.asarray(grey // 2, np.uint8)
    heat[rows, columns] = cv2.addWeighted(grey[rows, columns], 0.35, colours, 0.65, 0)
    heat = resize(heat, *_panel_size(height, width))
    above = np.zeros((height, width), np.uint8)
    above[rows, columns] = placed > threshold
    _outline(heat, above, _WHITE)
    return heat


def _colours(level: FloatArray) -> Image:
    mapped = cv2.applyColorMap((level * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(mapped, cv2.COLOR_BGR2RGB), np.uint8)


def _colour_bar(height: int) -> Image:
    """All colours, the highest at the top, with a white tick at the threshold."""
    level = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(_COLOUR_BAR, axis=1)
    bar = _colours(level)
    bar[height // 2, :] = _WHITE
    return bar


def _outline(panel: Image, area: Image, colour: tuple[int, int, int]) -> None:
    """Draw the outline of the non-zero area, ``uint8 HxW`` of any size, onto the panel."""
    small = cv2.resize(area, panel.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(panel, contours, -1, colour, 1)


def _caption(width: int, scored: ScoredImage, threshold: float) -> Image:
    bar = np.full((_BAR, width, 3), _BACKGROUND, np.uint8)
    verdict = f"{'wrong: ' if scored.mistaken else ''}{scored.verdict.value}"
    left = f"{scored.image.kind}/{scored.image.path.name}"
    right = f"score {scored.score:.3f}, threshold {threshold:.3f}, {verdict}"
    (right_width, _), _ = cv2.getTextSize(right, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    _text(bar, left, 6, _WHITE)
    colour = _RED if scored.mistaken else _GREEN
    bar[:, max(0, width - right_width - 14) :] = _BACKGROUND
    _text(bar, right, max(0, width - right_width - 6), colour)
    return bar


def _text(bar: Image, text: str, x: int, colour: tuple[int, int, int]) -> None:
    # OpenCV's fonts have ASCII only and draw anything else as "??".
    ascii_text = text.encode("ascii", "replace").decode()
    cv2.putText(bar, ascii_text, (x, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)


def contact_sheet(evaluation: Evaluation, preprocess: PreprocessSpec) -> Image:
    """The overlays of the up to twelve worst mistakes at the calibrated threshold, the worst first.

    Without a mistake it shows the images that came closest to one. Returns ``uint8 HxWx3`` RGB.
    """
    threshold = evaluation.calibrated.threshold
    wrong = [s for s in evaluation.images if s.mistaken]
    if wrong:
        shown = sorted(wrong, key=lambda s: -abs(s.score - threshold))[:_MISTAKES]
        title = f"{len(wrong)} mistakes among {len(evaluation.images)} images; the worst {len(shown)}"
    else:
        shown = sorted(evaluation.images, key=lambda s: abs(s.score - threshold))[:_MISTAKES]
        title = f"no mistake among {len(evaluation.images)} images; the closest to the threshold"
    pictures = [overlay(s, preprocess, threshold) for s in shown]
    return _stack(pictures, title)


def _stack(pictures: Sequence[Image], title: str) -> Image:
    columns = 2 if len(pictures) > 1 else 1
    width = max(p.shape[1] for p in pictures)
    rows = []
    for i in range(0, len(pictures), columns):
        row = pictures[i : i + columns]
        height = max(p.shape[0] for p in row)
        canvas = np.full((height + 2 * _GAP, columns * (width + 2 * _GAP), 3), _BACKGROUND, np.uint8)
        for j, picture in enumerate(row):
            x = j * (width + 2 * _GAP) + _GAP
            canvas[_GAP : _GAP + picture.shape[0], x : x + picture.shape[1]] = picture
        rows.append(canvas)
    head = np.full((_BAR, rows[0].shape[1], 3), _BACKGROUND, np.uint8)
    _text(head, title, _GAP, _WHITE)
    return np.vstack([head, *rows])


def histogram(evaluation: Evaluation) -> Image:
    """How the scores of each kind lie about the calibrated threshold, as ``uint8 HxWx3`` RGB."""
    threshold = evaluation.calibrated.threshold
    kinds: dict[str, list[float]] = {"good": []} if evaluation.calibrated.good else {}
    for scored in evaluation.images:
        kinds.setdefault(scored.image.kind, []).append(scored.score)
    edges, logarithmic = _bin_edges([s.score for s in evaluation.images], threshold)
    figure = Figure(figsize=(9, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(
        list(kinds.values()),
        bins=edges,
        stacked=True,
        label=[f"{kind} ({len(values)})" for kind, values in kinds.items()],
        color=_kind_colours(list(kinds)),
    )
    if logarithmic:
        axes.set_xscale("log")
    axes.axvline(threshold, color="black", linewidth=1.5, label=f"calibrated threshold {threshold:.3f}")
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
    axes.set_title("Scores of the test images; right of the threshold is rejected")
    axes.legend()
    return _rendered(figure)


def _bin_edges(scores: Sequence[float], threshold: float) -> tuple[list[float], bool]:
    """Edges of about forty bins, one of them at the threshold so that no bar stands on both sides of it,
    and whether they are spaced logarithmically (defects far above the threshold)."""
    values = np.asarray([*scores, threshold])
    logarithmic = bool(values.min() > 0 and values.max() > 10 * threshold)
    if logarithmic:
        values = np.log(values)
    # The threshold is the last value; without any spread one bin of width 1 is left on each side.
    width = float(np.ptp(values)) / _BINS or 1.0
    first = int(np.floor((values.min() - values[-1]) / width)) - 1
    last = int(np.ceil((values.max() - values[-1]) / width)) + 1
    edges = values[-1] + width * np.arange(first, last + 1)
    return (np.exp(edges) if logarithmic else edges).tolist(), logarithmic


def _kind_colours(kinds: Sequence[str]) -> list[str]:
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
    c = evaluation.calibrated
    figure = Figure(figsize=(6, 6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="lightgrey", linewidth=1)
    axes.plot(*curve, color="#30308f", linewidth=2, label=f"image AUROC {evaluation.image_auroc:.4f}")
    axes.plot(
        [c.false_rejects / c.good],
        [1 - c.escapes / c.defects],
        "o",
        color="crimson",
        label=f"calibrated threshold {c.threshold:.3f}",
    )
    axes.set_xlabel("good images rejected (share)")
    axes.set_ylabel("defective images rejected (share)")
    axes.set_aspect("equal")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc="lower right")
    return _rendered(figure)


def _rendered(figure: Figure) -> Image:
    encoded = io.BytesIO()
    # A Figure of its own, without pyplot, draws with Agg and holds no global state.
    figure.savefig(encoded, format="png")
    return decode_image(encoded.getvalue())


def _write_png(path: Path, image: Image) -> None:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(encoded.tobytes())
