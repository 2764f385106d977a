"""Where a cut fails: kinds of defect that it sees less well than the uncut INT8 model of the same run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_ad.data import TestImage, read_dataset
from edge_ad.evaluation.masks import image_mask
from edge_ad.evaluation.pictures import colour_bar, panel_size
from edge_ad.evaluation.scored import ScoredImage, score_images
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.files import make_folder, write_atomically
from edge_ad_runtime.heat import heat_panel
from edge_ad_runtime.images import read_image
from edge_ad_runtime.placement import inspected_region, place_map
from edge_ad_runtime.preprocess import PreprocessSpec, resize
from edge_ad_runtime.types import Image
from tests.studies.compression.cuts import CUTS, FUSED
from tests.studies.compression.rows import Figures
from tests.studies.compression.subjects import Subject

LOSS = 0.01
"""A kind whose image AUROC falls by more is shown."""
_PICTURES = 3
_SIDE = 256
_GAP = 6


@dataclass(frozen=True)
class Failure:
    """A kind of defect with its image AUROC before and after a cut, on one run."""

    figures: Figures
    kind: str
    before: float
    after: float

    @property
    def loss(self) -> float:
        """How far it fell."""
        return self.before - self.after


def failures(figures: Sequence[Figures]) -> list[Failure]:
    """Every kind that lost more than :data:`LOSS` against the fused INT8 model of its run, the largest loss first."""
    whole = {f.run: f.kinds for f in figures if f.model == FUSED.key}
    found = []
    for f in _cut(figures):
        for kind, (_, after) in f.kinds.items():
            before = whole.get(f.run, {}).get(kind, (None, None))[1]
            if before is not None and after is not None and before - after > LOSS:
                found.append(Failure(f, kind, before, after))
    return sorted(found, key=lambda f: -f.loss)


def write_failures(out: Path, subjects: Mapping[str, Subject], figures: Sequence[Figures]) -> str:
    """``failures.md`` and a folder of pictures: for each kind that lost, the images whose scores fell the most.

    Only runs among ``subjects`` get pictures. Panels are the image, its mask, and the combined maps before and
    after, each coloured about its own threshold.
    """
    lost = failures(figures)
    by_run = defaultdict(list)
    for failure in lost:
        by_run[failure.figures.run].append(failure)
    for run, own in by_run.items():
        if run in subjects:
            _draw(out, subjects[run], own)
    text = _markdown(lost, {f.words: _tally(f.words, lost, figures) for f in _cut(figures)})
    write_atomically(out / "failures.md", text.encode())
    return text


def _cut(figures: Sequence[Figures]) -> list[Figures]:
    """Those of models that something was cut from."""
    return [f for f in figures if CUTS[f.model].tool is None and f.model != FUSED.key]


def picture_path(failure: Failure) -> str:
    """Where the pictures of a failure are, relative to the study's folder."""
    return f"failures/{failure.figures.run}/{failure.figures.model}-{failure.kind}.png"


def _tally(words: str, lost: Sequence[Failure], figures: Sequence[Figures]) -> tuple[int, int]:
    """How many pairs of a kind and a run lost, and of how many."""
    return (
        sum(f.figures.words == words for f in lost),
        sum(len(f.kinds) for f in figures if f.words == words),
    )


def _markdown(lost: Sequence[Failure], tallies: Mapping[str, tuple[int, int]]) -> str:
    lines = [
        f"Kinds of defect whose image AUROC against the good images falls by more than {LOSS:g} from the fused INT8",
        "model to the cut one, of all kinds in all runs:",
        "",
        "| cut | kinds that lost |",
        "|---|---|",
        *(f"| {words} | {count} of {whole} |" for words, (count, whole) in tallies.items()),
    ]
    if lost:
        lines += [
            "",
            "| cut | run | kind | before | after | loss | pictures |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {f.figures.words} ({f.figures.shape}) | {f.figures.run} | {f.kind} | {f.before:.4f} | {f.after:.4f} | "
            f"{f.loss:.4f} | [{f.kind}]({picture_path(f)}) |"
            for f in lost
        ]
    return "\n".join(lines) + "\n"


def _draw(out: Path, found: Subject, lost: Sequence[Failure]) -> None:
    test = read_dataset(found.data).test
    for failure in lost:
        path = out / picture_path(failure)
        images = [i for i in test if i.kind == failure.kind]
        pairs = [_scored(found, model, images) for model in (FUSED.key, failure.figures.model)]
        (before, old), (after, new), spec = pairs[0][:2], pairs[1][:2], pairs[0][2]
        fell = sorted(
            zip(before, after, strict=True),
            key=lambda p: p[1].score / new.threshold - p[0].score / old.threshold,
        )
        rows = [_panels(a, b, (old, new), spec) for a, b in fell[:_PICTURES]]
        width = max(r.shape[1] for r in rows)
        sheet = np.vstack([np.pad(r, ((0, _GAP), (0, width - r.shape[1]), (0, 0))) for r in rows])
        make_folder(path.parent)
        write_atomically(path, cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())


def _scored(
    found: Subject, model: str, images: Sequence[TestImage]
) -> tuple[list[ScoredImage], Calibration, PreprocessSpec]:
    converted, calibration = found.open(model)
    return score_images(converted, images, calibration), calibration, converted.spec


def _panels(
    before: ScoredImage,
    after: ScoredImage,
    calibrations: tuple[Calibration, Calibration],
    spec: PreprocessSpec,
) -> Image:
    """Image, mask, and both maps side by side, ``uint8 HxWx3`` RGB."""
    image = read_image(before.image.path)
    size = panel_size(image, _SIDE)
    region = inspected_region(spec, *image.shape[:2])
    mask = image_mask(before)
    white = np.zeros(image.shape, np.uint8)
    if mask is not None:
        white[mask] = 255
    panels = [resize(image, *size), resize(white, *size)]
    for scored, calibration in zip((before, after), calibrations, strict=True):
        placed = place_map(scored.anomaly_map, spec, *image.shape[:2])
        contour = calibration.threshold if calibration.score == "max" else None
        panels.append(heat_panel(image, placed, region, size, calibration.threshold, contour))
    gap = np.zeros((size[0], _GAP, 3), np.uint8)
    parts = [part for panel in panels for part in (panel, gap)]
    return np.hstack([*parts, colour_bar(size[0])])
