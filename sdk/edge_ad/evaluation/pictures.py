"""Pictures of an evaluation for a person to look at: overlays, and sheets of the images that matter most."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edge_ad.evaluation.charts import histogram, roc_picture
from edge_ad.evaluation.evaluate import LOOK_FIRST, Evaluation
from edge_ad.evaluation.masks import image_mask
from edge_ad.evaluation.scored import ScoredImage, output_names
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.files import folder_written_atomically
from edge_ad_runtime.heat import WHITE, colours, heat_panel, outline
from edge_ad_runtime.images import read_image
from edge_ad_runtime.placement import inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec, resize
from edge_ad_runtime.types import Image

try:
    from tqdm import tqdm
except ImportError as error:
    raise MissingExtra("tqdm", "host", "the pictures of an evaluation") from error

PANEL_SIDE = 384
"""Longer side of an image in an overlay, in pixels."""
SHEET_SIDE = 256
"""The same in the sheet of images to look at first."""
_BAR = 34
_GAP = 6
_COLOUR_BAR = 10
_BACKGROUND = (24, 24, 24)
_GREY, _RED, _GREEN = (170, 170, 170), (255, 96, 96), (96, 220, 96)
_CYAN = (0, 229, 255)
_MISTAKES = 12


@dataclass(frozen=True)
class Look:
    """How an evaluation's maps are drawn: ``level`` is the map's value in the middle of the colours.

    ``threshold`` is that of the scores, None without verdicts; ``contour`` whether it can be drawn on a map,
    which it can where the score is the map's maximum.
    """

    level: float
    threshold: float | None
    contour: bool


def look_of(evaluation: Evaluation) -> Look:
    """The threshold in force as the middle of the colours; where it says nothing of single cells, or there is
    none, the median of the good images' largest cells (of all images without good ones)."""
    threshold = None if evaluation.outcome is None else evaluation.outcome.threshold
    if threshold is not None and evaluation.score == "max":
        return Look(threshold, threshold, True)
    chosen = [s for s in evaluation.images if not s.image.defect] or evaluation.images
    return Look(statistics.median(float(s.anomaly_map.max()) for s in chosen), threshold, False)


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

    ``overlays/KIND/NAME.png`` for each image, ``histogram.png``, ``roc.png`` and ``look_first.png`` (if
    there are good and defective images), ``mistakes.png`` (if there are verdicts) and ``evaluation.json``.

    Raises:
        InputError: the folder is not new or empty.
        ImageError: an image or a mask cannot be read again.
    """
    check_folder(folder)
    look = look_of(evaluation)
    with folder_written_atomically(folder) as part:
        for scored, name in zip(
            tqdm(evaluation.images, desc="drawing", unit="image", disable=not progress),
            output_names(evaluation.images),
            strict=True,
        ):
            path = part / "overlays" / scored.image.kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_png(path, overlay(scored, preprocess, look))
        _write_png(part / "histogram.png", histogram(evaluation))
        if (curve := roc_picture(evaluation)) is not None:
            _write_png(part / "roc.png", curve)
        if evaluation.outcome is not None:
            _write_png(part / "mistakes.png", contact_sheet(evaluation, preprocess))
        if (sheet := look_first_sheet(evaluation, preprocess)) is not None:
            _write_png(part / "look_first.png", sheet)
        encoded = msgspec.json.format(msgspec.json.encode(evaluation.as_dict()), indent=2)
        (part / "evaluation.json").write_bytes(encoded + b"\n")


def overlay(scored: ScoredImage, preprocess: PreprocessSpec, look: Look, side: int = PANEL_SIDE) -> Image:
    """The image with its mask's outline, beside it the anomaly map over the image in grey.

    Returns ``uint8 HxWx3`` RGB; the longer side of the image becomes ``side`` pixels. The map's colours are
    those of :func:`edge_ad_runtime.heat.colour_level`; the white line is where it crosses the threshold, the tick of the colour bar
    the middle of the colours, the cyan line the mask's outline.

    Raises:
        ImageError: the image or its mask cannot be read.
    """
    image = read_image(scored.image.path)
    height, width = panel_size(image, side)
    plain = resize(image, height, width)
    region = inspected_region(preprocess, *image.shape[:2])
    placed = place_map(scored.anomaly_map, preprocess, *image.shape[:2])
    contour = look.level if look.contour else None
    heat = heat_panel(image, placed, region, (height, width), look.level, contour)
    mask = image_mask(scored)
    for panel in (plain, heat):
        if mask is not None:
            outline(panel, mask.astype(np.uint8), _CYAN)
    gap = np.full((height, _GAP, 3), _BACKGROUND, np.uint8)
    panels = np.hstack([plain, gap, heat, gap, colour_bar(height)])
    return np.vstack([_caption(panels.shape[1], scored, look.threshold), panels])


def panel_size(image: Image, side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side becomes ``side`` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def colour_bar(height: int) -> Image:
    """All colours, the highest at the top, with a white tick at the middle."""
    level = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(_COLOUR_BAR, axis=1)
    bar = colours(level)
    bar[height // 2, :] = WHITE
    return bar


def _caption(width: int, scored: ScoredImage, threshold: float | None) -> Image:
    bar = np.full((_BAR, width, 3), _BACKGROUND, np.uint8)
    right, colour = f"score {scored.score:.3f}", _GREY
    if scored.verdict is not None and threshold is not None:
        right += f", threshold {threshold:.3f}, {'wrong: ' if scored.mistaken else ''}{scored.verdict.value}"
        colour = _RED if scored.mistaken else _GREEN
    (right_width, _), _ = cv2.getTextSize(right, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    _text(bar, f"{scored.image.kind}/{scored.image.path.name}", 6, WHITE)
    bar[:, max(0, width - right_width - 14) :] = _BACKGROUND
    _text(bar, right, max(0, width - right_width - 6), colour)
    return bar


def _text(bar: Image, text: str, x: int, colour: tuple[int, int, int]) -> None:
    # OpenCV's fonts have ASCII only and draw anything else as "??".
    ascii_text = text.encode("ascii", "replace").decode()
    cv2.putText(bar, ascii_text, (x, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)


def contact_sheet(evaluation: Evaluation, preprocess: PreprocessSpec) -> Image:
    """The overlays of the up to twelve worst mistakes at the threshold in force, the worst first.

    Without a mistake it shows the images that came closest to one. Returns ``uint8 HxWx3`` RGB.

    Raises:
        InputError: no threshold is in force.
    """
    if evaluation.outcome is None:
        raise InputError("without a threshold there are no mistakes to show")
    threshold = evaluation.outcome.threshold
    wrong = [s for s in evaluation.images if s.mistaken]
    if wrong:
        shown = sorted(wrong, key=lambda s: -abs(s.score - threshold))[:_MISTAKES]
        title = f"{len(wrong)} mistakes among {len(evaluation.images)} images; the worst {len(shown)}"
    else:
        shown = sorted(evaluation.images, key=lambda s: abs(s.score - threshold))[:_MISTAKES]
        title = f"no mistake among {len(evaluation.images)} images; the closest to the threshold"
    pictures = [overlay(s, preprocess, look_of(evaluation)) for s in shown]
    return _grid([pictures[i : i + 2] for i in range(0, len(pictures), 2)], title)


def look_first_sheet(
    evaluation: Evaluation, preprocess: PreprocessSpec, count: int = LOOK_FIRST
) -> Image | None:
    """Where wrong labels would show: on the left the good images with the highest scores, on the right the
    defects with the lowest, the most suspicious first. ``uint8 HxWx3`` RGB; None with one class only."""
    good, defects = evaluation.look_first(count)
    if not (good and defects):
        return None
    look = look_of(evaluation)
    rows = [
        [None if s is None else overlay(s, preprocess, look, SHEET_SIDE) for s in pair]
        for pair in zip_longest(good, defects)
    ]
    return _grid(rows, "left: good, but scored high   right: defect, but scored low   (wrong labels?)")


def _grid(rows: Sequence[Sequence[Image | None]], title: str) -> Image:
    pictures = [p for row in rows for p in row if p is not None]
    columns = max(len(row) for row in rows)
    width = max(p.shape[1] for p in pictures)
    bands = []
    for row in rows:
        height = max(p.shape[0] for p in row if p is not None)
        canvas = np.full((height + 2 * _GAP, columns * (width + 2 * _GAP), 3), _BACKGROUND, np.uint8)
        for j, picture in enumerate(row):
            if picture is not None:
                x = j * (width + 2 * _GAP) + _GAP
                canvas[_GAP : _GAP + picture.shape[0], x : x + picture.shape[1]] = picture
        bands.append(canvas)
    head = np.full((_BAR, bands[0].shape[1], 3), _BACKGROUND, np.uint8)
    _text(head, title, _GAP, WHITE)
    return np.vstack([head, *bands])


def _write_png(path: Path, image: Image) -> None:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(encoded.tobytes())
