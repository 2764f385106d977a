"""Good images with damage that no part has: what a range fitted on good images alone must still let through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_ad_runtime.types import Image

# Side of the damaged squares, as a share of the image's.
_SMALL, _LARGE = 0.08, 0.3


def stress_images(batches: Sequence[Image], seed: int) -> list[Image]:
    """Each ``uint8 1xHxWx3`` batch with five squares in it: noise, black, white, inverted, and one from elsewhere.

    They are not meant to look like defects but to go beyond them in contrast and sharpness.
    """
    generator = np.random.default_rng(seed)
    damaged = []
    for number, batch in enumerate(batches):
        image = batch.copy()
        other = batches[(number + 1) % len(batches)]
        for kind in range(5):
            height, width = (
                max(2, int(side * generator.uniform(_SMALL, _LARGE))) for side in image.shape[1:3]
            )
            top, left, top_2, left_2 = (
                int(generator.integers(0, whole - part + 1))
                for whole, part in zip(image.shape[1:3] * 2, (height, width) * 2, strict=True)
            )
            place = np.s_[:, top : top + height, left : left + width]
            if kind == 0:
                image[place] = generator.integers(0, 256, image[place].shape, np.uint8)
            elif kind in (1, 2):
                image[place] = 255 * (kind - 1)
            elif kind == 3:
                image[place] = 255 - image[place]
            else:
                image[place] = other[:, top_2 : top_2 + height, left_2 : left_2 + width]
        damaged.append(image)
    return damaged
