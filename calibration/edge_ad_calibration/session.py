"""Recalibration in the field: good parts in, a checked calibration out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edge_ad_calibration.fit import DEFAULT_FALSE_REJECT_RATE, fit_calibration
from edge_ad_calibration.fit import MIN_IMAGES as FIT_MIN_IMAGES
from edge_ad_calibration.history import History
from edge_ad_runtime.calibration import Calibration, MixChoice
from edge_ad_runtime.camera_state import CameraState
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.preprocess import preprocess
from edge_ad_runtime.scoring import apply_calibration
from edge_ad_runtime.types import Image

MIN_IMAGES = 20
"""Different images below which the spread of the scores is hardly known: at 20 scores the standard error of
a standard deviation is 16 %."""

MAX_REPEATS = 0.1
"""Share of images equal byte for byte to an earlier one. A working camera's noise leaves none."""

STILL_LEVELS = 0.25
"""Mean absolute difference of two successive images at the network's size, in grey levels of 255, below
which they show the same unmoved part: sensor noise of 2 to 3 levels that shrinking averages over 10 or more
pixels differs by less, another part by several levels."""

OUTLIER_MADS = 8.0
"""Scores above the median by this many robust standard deviations (1.4826 MAD) look bad. Of scores with the
Gumbel distribution that the threshold assumes, one in 13,000 does."""

MAX_CHANGE = 5.0
"""Factor between the factory calibration and the new one above which something else than the light is new."""

_NAMED = 10


class RecalibrationRefused(CalibrationError):
    """The good parts or the calibration fitted on them look wrong; nothing was written.

    ``problems`` holds a sentence for each; ``suspects`` the indices of the images that look bad.
    """

    def __init__(self, problems: Sequence[str], suspects: Sequence[int]) -> None:
        self.problems, self.suspects = tuple(problems), tuple(suspects)
        super().__init__(
            "the calibration was not changed: " + "; ".join(problems) + ". "
            "Correct this and repeat (--force overrides it, if you are sure)"
        )


class RecalibrationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a recalibration did.

    ``images`` were given, ``repeats`` of them left out of the fit as exact repeats. ``scores`` are those of
    the others under the new calibration, ``rejected_before`` how many of them the old one would reject.
    ``warnings`` are the problems that were overridden. ``written`` is the new file, None in a dry run.
    """

    before: Calibration
    after: Calibration
    images: int
    repeats: int
    scores: tuple[float, ...]
    rejected_before: int
    rejected_after: int
    suspects: tuple[int, ...]
    warnings: tuple[str, ...]
    written: Path | None


class _Seen(msgspec.Struct):
    """What is kept of the images: their raw maps and index, without the repeats."""

    images: int
    indices: list[int]
    maps: list[RawMaps]
    differences: list[float]


def recalibrate(
    inspector: Inspector,
    images: Iterable[Image],
    history: History,
    *,
    false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE,
    threshold: float | None = None,
    score: str | None = None,
    mix: MixChoice | None = None,
    source: str,
    names: Sequence[str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    camera: Callable[[], CameraState | None] | None = None,
) -> RecalibrationResult:
    """Refit quantiles and threshold on images of good parts, check them, and make them current.

    The fit is :func:`edge_ad_calibration.fit.fit_calibration`, as at conversion. Nothing is written before
    every check has passed.

    Args:
        inspector: its engine computes the maps; its own calibration does not matter.
        images: camera images of good parts, ``uint8 HxWx3`` RGB. They are not kept.
        history: where the new calibration is appended, of the inspector's bundle.
        false_reject_rate: share of good parts that the threshold may reject.
        threshold: a threshold of the user's choice instead of a fitted one.
        score: another rule for the image's score; None keeps that of the current calibration.
        mix: other weights of the two maps; None keeps those of the current calibration.
        source: what the images were, for the record.
        names: of the images, for messages; it may still be filled while the images are read. Without names
            the images are numbered from 1.
        force: write in spite of the checks; they become warnings. Fewer than five different images are
            refused all the same.
        dry_run: do everything but write.
        camera: says, after the last image, how the camera stood; recorded with the calibration.

    Raises:
        RecalibrationRefused: a check failed and ``force`` is not set.
        CalibrationError: the images do not allow a fit at all, or the history cannot be read or written.
    """
    before = history.current()
    factory = inspector.bundle.calibration
    if before.bundle != factory.bundle:
        raise CalibrationError("the history belongs to another bundle than the inspector")
    seen = _look(inspector, images)
    problems = _problems_of_images(seen)
    if len(seen.maps) < FIT_MIN_IMAGES:
        raise RecalibrationRefused(problems, ())
    after = fit_calibration(
        seen.maps,
        bundle=inspector.bundle.id,
        source=source,
        mix=mix or before.mix,
        score=score or before.score,
        background=before.background is not None,
        false_reject_rate=false_reject_rate,
        threshold=threshold,
    )
    if camera is not None:
        after = msgspec.structs.replace(after, camera=camera())
    scores, old_scores = ([apply_calibration(m, c)[1] for m in seen.maps] for c in (after, before))
    suspects = tuple(seen.indices[i] for i in find_outliers(scores))
    problems += [*_problems_of_suspects(suspects, names), *_problems_of_change(factory, after)]
    if problems and not force:
        raise RecalibrationRefused(problems, suspects)
    written = None if dry_run else history.append(after).path
    return RecalibrationResult(
        before=before,
        after=after,
        images=seen.images,
        repeats=seen.images - len(seen.maps),
        scores=tuple(scores),
        rejected_before=sum(s > before.threshold for s in old_scores),
        rejected_after=sum(s > after.threshold for s in scores),
        suspects=suspects,
        warnings=tuple(problems),
        written=written,
    )


def find_outliers(scores: Sequence[float]) -> list[int]:
    """Indices of the scores that lie :data:`OUTLIER_MADS` robust standard deviations above the median.

    1.4826 times the median absolute deviation estimates a normal standard deviation (Rousseeuw, Croux 1993).
    """
    values = np.asarray(scores, float)
    median = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - median)))
    return np.flatnonzero(values > median + OUTLIER_MADS * deviation).tolist()


def _look(inspector: Inspector, images: Iterable[Image]) -> _Seen:
    seen = _Seen(0, [], [], [])
    digests: set[bytes] = set()
    previous: npt.NDArray[np.int16] | None = None
    for index, image in enumerate(images):
        seen.images += 1
        batch = preprocess(image, inspector.bundle.manifest.preprocess)
        # Of what the network sees, so that a clock or counter outside the region of interest hides nothing.
        digest = hashlib.sha256(batch.tobytes()).digest()
        if digest in digests:
            continue
        digests.add(digest)
        levels = batch.astype(np.int16)
        if previous is not None:
            seen.differences.append(float(np.abs(levels - previous).mean()))
        previous = levels
        seen.indices.append(index)
        seen.maps.append(inspector.engine.run(batch))
    return seen


def _problems_of_images(seen: _Seen) -> list[str]:
    problems = []
    different = len(seen.maps)
    repeats = seen.images - different
    if repeats > MAX_REPEATS * seen.images:
        problems.append(
            f"{repeats} of {seen.images} images repeat an earlier one exactly: the camera is frozen, or the "
            "same files were given twice"
        )
    if seen.differences and float(np.median(seen.differences)) < STILL_LEVELS:
        problems.append(
            "successive images are nearly identical: show different good parts, not one part many times"
        )
    if different < MIN_IMAGES:
        problems.append(f"{different} different images are too few; {MIN_IMAGES} are needed, 100 are better")
    return problems


def _problems_of_suspects(suspects: Sequence[int], names: Sequence[str] | None) -> list[str]:
    if not suspects:
        return []
    named = [names[i] if names is not None else f"image {i + 1}" for i in suspects[:_NAMED]]
    more = f" and {len(suspects) - _NAMED} more" if len(suspects) > _NAMED else ""
    return [
        f"these images look bad among the good parts: {', '.join(named)}{more}; look at them, leave them out"
    ]


def _problems_of_change(factory: Calibration, after: Calibration) -> list[str]:
    old, new = factory.quantiles, after.quantiles
    pairs = {
        "level of the teacher-student map": (old.qb_st, new.qb_st),
        "level of the autoencoder map": (old.qb_ae, new.qb_ae),
        "spread of the teacher-student map": (old.qb_st - old.qa_st, new.qb_st - new.qa_st),
        "spread of the autoencoder map": (old.qb_ae - old.qa_ae, new.qb_ae - new.qa_ae),
    }
    comparable = (after.score, after.mix) == (factory.score, factory.mix)
    if comparable and after.method != "given" and factory.method != "given":
        pairs["threshold"] = (factory.threshold, after.threshold)
    problems = []
    for what, (a, b) in pairs.items():
        if a > 0 and not a / MAX_CHANGE <= b <= a * MAX_CHANGE:
            problems.append(
                f"the {what} moved from {a:.4g} in the factory calibration to {b:.4g}, by more than a factor of "
                f"{MAX_CHANGE:g}: are these the parts of this bundle, in focus and lit?"
            )
    return problems
