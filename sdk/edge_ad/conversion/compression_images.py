"""What compressed nets are fitted on. No labelled image is among it."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np

from edge_ad.conversion.images import ImageSets
from edge_ad.conversion.inputs import network_inputs
from edge_ad.run_folder import RunConfig
from edge_ad.training.feed import GENERATED, open_penalty
from edge_ad_converters.compress import CompressionImages
from edge_ad_converters.stress import stress_images
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.types import Image

# Good parts look alike: least squares see thousands of places in each image, and recovery repeats them.
GOOD_IMAGES = 48
# Each shows five kinds of damage; as many as take part in the INT8 ranges.
DAMAGED_IMAGES = 32
# They hold the student to what it does on anything unknown; about a quarter of all images.
FOREIGN_IMAGES = 32


def compression_images(sets: ImageSets, config: RunConfig, seed: int) -> CompressionImages:
    """Calibration images, the same with damage, and penalty images like those of the training.

    The penalty images come from the run's folder; where it named none, or it is gone, they are generated.

    Raises:
        DataError: all calibration images look alike.
    """
    good = network_inputs(sets.ranges, config.preprocess).batches
    return CompressionImages(
        good[:GOOD_IMAGES],
        stress_images(good[:DAMAGED_IMAGES], seed),
        _foreign(config, seed),
    )


def _foreign(config: RunConfig, seed: int) -> tuple[Image, ...]:
    penalty = None
    with contextlib.suppress(DataError):
        penalty = open_penalty(config)
    if penalty is None:
        penalty = open_penalty(msgspec.structs.replace(config, penalty=GENERATED))
    assert penalty is not None
    generator = np.random.default_rng(seed)
    # Steps after the training's own: generated images that it has not seen.
    return tuple(penalty.batch(config.steps + i, 1, generator) for i in range(FOREIGN_IMAGES))
