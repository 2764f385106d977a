"""Whether damage that stands out in the float model's maps still stands out in another's."""

from __future__ import annotations

from collections.abc import Sequence

from edge_ad_converters.int8 import TOLERATED_LOSS
from edge_ad_converters.parity import MapError
from edge_ad_converters.stress import stress_images
from edge_ad_runtime.engines import Engine
from edge_ad_runtime.types import Image

# What the search for INT8 ranges tolerates of the same measure.
MAX_LOST = TOLERATED_LOSS


class Damage:
    """Good images with five damaged squares each, as the reference sees them.

    It needs no labels and goes beyond the kinds of defect that the test images happen to show.

    Args:
        reference: the engine that is right.
        good: ``uint8 1xHxWx3`` good images that nothing was fitted on.
        seed: of the squares.
    """

    def __init__(self, reference: Engine, good: Sequence[Image], seed: int) -> None:
        self._normal = MapError(reference, good).highest
        self._damaged = MapError(reference, stress_images(good, seed))

    def lost(self, engine: Engine) -> float:
        """Share of the map's cells that stand out in the reference and no longer do, 0 to 1; see
        :meth:`edge_ad_converters.parity.MapError.lost`."""
        return self._damaged.lost(engine, self._normal)
