"""Test images with their maps and scores, before anything is measured."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_ad.data import TestImage
from edge_ad.evaluation.scorer import Scorer
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.images import read_image
from edge_ad_runtime.scoring import apply_calibration
from edge_ad_runtime.types import FloatArray
from edge_ad_runtime.verdict import Verdict

try:
    from tqdm import tqdm
except ImportError as error:
    raise MissingExtra("tqdm", "host", "evaluation") from error


@dataclass(frozen=True)
class ScoredImage:
    """One test image with its combined map (``float32 hxw``, the network's grid) and score.

    ``height`` and ``width`` are the image's own; ``seconds`` covers preprocessing, network and scoring.
    ``verdict`` is that at the evaluation's threshold, None where there is none.
    """

    image: TestImage
    height: int
    width: int
    anomaly_map: FloatArray
    score: float
    seconds: float
    verdict: Verdict | None = None

    @property
    def mistaken(self) -> bool:
        """Whether there is a verdict and it is wrong."""
        return self.verdict is not None and (self.verdict is not Verdict.PASS) != self.image.defect


def output_names(images: Sequence[ScoredImage]) -> list[str]:
    """A name for what is written about each image in its kind's folder: the file's stem, or where images share
    one (``a.png`` and ``a.jpg``) the file's name."""
    stems = Counter((s.image.kind, s.image.path.stem) for s in images)
    return [
        s.image.path.stem if stems[s.image.kind, s.image.path.stem] == 1 else s.image.path.name
        for s in images
    ]


def score_images(
    scorer: Scorer, images: Sequence[TestImage], calibration: Calibration, *, progress: bool = False
) -> list[ScoredImage]:
    """Maps and scores of images by a calibration's quantiles, mix and rule, not necessarily the scorer's own.

    Raises:
        ImageError: an image cannot be read.
        InputError: a map is not finite, or an image does not hold the region of interest.
    """
    scored = []
    for image in tqdm(images, desc="scoring", unit="image", disable=not progress):
        pixels = read_image(image.path)
        start = time.monotonic_ns()
        try:
            maps = scorer.raw_maps(pixels)
        except InputError as error:
            raise InputError(f"{image.path}: {error}") from error
        combined, score = apply_calibration(maps, calibration)
        seconds = (time.monotonic_ns() - start) / 1e9
        if not np.isfinite(combined).all():
            raise InputError(f"{image.path}: its anomaly map is not finite; the model is broken")
        height, width = pixels.shape[:2]
        scored.append(ScoredImage(image, height, width, combined, score, seconds))
    return scored
