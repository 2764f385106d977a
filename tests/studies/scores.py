"""Image scores, mixes and the background, compared on the raw maps that :mod:`tests.studies.training` keeps.

    python -m tests.studies.scores OUT VARIANT … [--mixes 0.5:0.5,1:0] [--pixels]

No training: each row fits quantiles (and background) on a run's validation maps and scores its test maps.
``--pixels`` adds AUPRO, which takes a while.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_ad.data import Dataset, defect_mask, read_dataset
from edge_ad.evaluation.metrics import image_auroc
from edge_ad.evaluation.pixels import pixel_metrics
from edge_ad.run_folder import read_config
from edge_ad_calibration.fit import fit_calibration
from edge_ad_runtime.calibration import Calibration, MixChoice, parse_mix
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.images import read_image
from edge_ad_runtime.placement import place_map
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.scoring import apply_calibration
from edge_ad_runtime.types import FloatArray
from tests.studies.training import RAW

RULES = ("max", "topk:10", "topk:0.001", "topk:0.01", "percentile:99", "percentile:99.5", "mean")
MIXES = ("0.5:0.5", "1:0", "0:1", "auto")
# AUPRO of a set this large is measured on every fifth image.
MANY = 300


@dataclass(frozen=True)
class Kept:
    """The raw maps of one run, and where its images are."""

    variant: str
    name: str
    test: list[RawMaps]
    validation: list[RawMaps]
    defects: list[bool]
    dataset: Dataset
    preprocess: PreprocessSpec


def read_kept(folder: Path) -> Kept:
    """Read what a study's run kept."""
    with np.load(folder / RAW) as arrays:
        maps = {
            part: [RawMaps(st, ae) for st, ae in zip(arrays[f"{part}_st"], arrays[f"{part}_ae"], strict=True)]
            for part in ("test", "validation")
        }
        defects = [bool(d) for d in arrays["defect"]]
    config, _ = read_config(folder / "run")
    dataset = read_dataset(Path(config.data))
    return Kept(
        folder.parent.name, folder.name, maps["test"], maps["validation"], defects, dataset, config.preprocess
    )


def fitted(kept: Kept, mix: MixChoice, score: str, background: bool) -> Calibration:
    """The calibration on the validation maps."""
    return fit_calibration(kept.validation, bundle="", source="", mix=mix, score=score, background=background)


@dataclass(frozen=True)
class Judged:
    """AUROC, and what the fitted threshold does: shares of good images rejected and of defects passed."""

    auroc: float
    false_rejects: float
    escapes: float


def judge(kept: Kept, calibration: Calibration) -> Judged:
    """Score the test maps."""
    scores = np.asarray([apply_calibration(m, calibration)[1] for m in kept.test])
    bad = np.asarray(kept.defects)
    auroc = image_auroc(scores.tolist(), kept.defects)
    assert auroc is not None
    rejected = scores > calibration.threshold
    return Judged(auroc, float(rejected[~bad].mean()), float((~rejected)[bad].mean()))


class _Samples:
    """Pairs of a placed map and its mask, anew at each iteration."""

    def __init__(self, kept: Kept, calibration: Calibration) -> None:
        self._kept, self._calibration = kept, calibration

    def __iter__(self) -> Iterator[tuple[FloatArray, np.ndarray]]:
        kept = self._kept
        step = 5 if len(kept.test) > MANY else 1
        for image, maps in list(zip(kept.dataset.test, kept.test, strict=True))[::step]:
            height, width = read_image(image.path).shape[:2]
            mask = defect_mask(image, height, width) if image.defect else np.zeros((height, width), bool)
            if mask is not None and mask.shape == (height, width):
                combined, _ = apply_calibration(maps, self._calibration)
                yield place_map(combined, kept.preprocess, height, width), mask


def aupro(kept: Kept, calibration: Calibration) -> float:
    """AUPRO of the test maps."""
    metrics = pixel_metrics(_Samples(kept, calibration))
    return metrics.aupro if metrics else float("nan")


def rows(kept: Kept, mixes: Sequence[str], pixels: bool) -> Iterator[str]:
    """Lines of the table for one run."""
    for text in mixes:
        for background in (False, True):
            values = [judge(kept, fitted(kept, parse_mix(text), rule, background)).auroc for rule in RULES]
            calibration = fitted(kept, parse_mix(text), "max", background)
            judged = judge(kept, calibration)
            cells = [
                kept.variant,
                kept.name,
                text,
                "yes" if background else "no",
                *(f"{v:.4f}" for v in values),
            ]
            cells += [f"{judged.false_rejects:.3f}", f"{judged.escapes:.3f}"]
            cells += [f"{aupro(kept, calibration):.4f}"] if pixels else []
            yield f"| {' | '.join(cells)} |"


def head(pixels: bool) -> str:
    """The table's head."""
    names = ["variant", "run", "mix", "background", *RULES, "good rejected", "defects passed"]
    names += ["AUPRO"] if pixels else []
    return f"| {' | '.join(names)} |\n" + "|---" * len(names) + "|"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--mixes", default=",".join(MIXES))
    parser.add_argument("--pixels", action="store_true")
    given = parser.parse_args(arguments)
    print(head(given.pixels))
    for variant in given.variants:
        for folder in sorted(p.parent for p in (given.out / variant).glob(f"*/{RAW}")):
            for line in rows(read_kept(folder), given.mixes.split(","), given.pixels):
                print(line, flush=True)


if __name__ == "__main__":
    main()
