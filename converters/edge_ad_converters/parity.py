"""How far a converted model is from its float original, in what users care about."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import Engine, RawMaps
from edge_ad_runtime.scoring import apply_calibration, decide
from edge_ad_runtime.types import Image
from edge_ad_runtime.verdict import Verdict

# Times what good parts reach; see MapError.lost.
FAR_ABOVE = 4.0


class Pair(msgspec.Struct, frozen=True):
    """One image by both models, the reference first, each with its own calibration.

    ``map_correlation`` is Pearson's over the cells of the combined maps; NaN where a map is constant.
    """

    scores: tuple[float, float]
    verdicts: tuple[Verdict, Verdict]
    map_correlation: float

    @property
    def flipped(self) -> bool:
        """Whether one model passes the part and the other does not."""
        return (self.verdicts[0] is Verdict.PASS) != (self.verdicts[1] is Verdict.PASS)


class Parity(msgspec.Struct, frozen=True):
    """Target against float on the same images.

    ``score_correlation`` is Pearson's over the images, ``map_correlation`` the median over the images,
    ``worst_map_correlation`` the smallest; NaN where they are not defined.
    """

    pairs: tuple[Pair, ...]
    score_correlation: float
    map_correlation: float
    worst_map_correlation: float


def compare(
    reference: Sequence[RawMaps],
    target: Sequence[RawMaps],
    reference_calibration: Calibration,
    target_calibration: Calibration,
) -> Parity:
    """Compare the raw maps of the same images (at least one) from two models."""
    pairs = []
    for maps in zip(reference, target, strict=True):
        (map_a, score_a), (map_b, score_b) = (
            apply_calibration(m, c)
            for m, c in zip(maps, (reference_calibration, target_calibration), strict=True)
        )
        verdicts = decide(score_a, reference_calibration), decide(score_b, target_calibration)
        pairs.append(Pair((score_a, score_b), verdicts, _correlation(map_a, map_b)))
    correlations = [p.map_correlation for p in pairs]
    scores = np.asarray([p.scores for p in pairs])
    return Parity(
        pairs=tuple(pairs),
        score_correlation=_correlation(scores[:, 0], scores[:, 1]),
        map_correlation=float(np.median(correlations)),
        worst_map_correlation=float(np.min(correlations)),
    )


class MapError:
    """How far another engine's raw maps are from reference ones on the same images.

    Args:
        reference: the engine that is right.
        batches: ``uint8 1xHxWx3`` images, at least one.
    """

    def __init__(self, reference: Engine, batches: Sequence[Image]) -> None:
        self._batches = batches
        self._reference = [reference.run(batch) for batch in batches]

    @property
    def highest(self) -> tuple[float, float]:
        """The largest value of each reference map."""
        return (
            max(float(m.st.max()) for m in self._reference),
            max(float(m.ae.max()) for m in self._reference),
        )

    def of(self, engine: Engine) -> float:
        """The standard deviation of a map's difference over that of the reference, averaged over maps and images.

        0 is exact, 1 as large as what the maps tell. A constant offset costs nothing: the quantiles take it.
        """
        errors = []
        for batch, wanted in zip(self._batches, self._reference, strict=True):
            for a, b in zip(wanted, engine.run(batch), strict=True):
                errors.append(float((b - a).std() / max(float(a.std()), 1e-12)))
        return float(np.mean(errors))

    def lost(self, engine: Engine, normal: tuple[float, float]) -> float:
        """Share of the cells far above ``normal`` (more than :data:`FAR_ABOVE` times) that the engine puts below
        half of that; 0 where the reference has none.

        ``normal`` is what good parts reach at most, map by map. How far beyond it a defect lies is not asked.
        """
        far = lost = 0
        for batch, wanted in zip(self._batches, self._reference, strict=True):
            for a, b, reached in zip(wanted, engine.run(batch), normal, strict=True):
                above = a > FAR_ABOVE * reached
                far += int(above.sum())
                lost += int((above & ~(b > FAR_ABOVE / 2 * reached)).sum())
        return lost / far if far else 0.0


def _correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    x, y = np.ravel(a).astype(float), np.ravel(b).astype(float)
    if len(x) < 2 or not (x.std() > 0 and y.std() > 0):
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
