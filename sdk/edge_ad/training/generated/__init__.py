"""Penalty images without a download: generated pictures with natural statistics.

EfficientAD's student is kept from imitating the teacher on anything but good parts by random natural images
(arXiv 2303.14535, section 3.2). These take their place where no such images are at hand. The processes are
those that carry over to real images in Baradad et al., "Learning to see by looking at noise"
(arXiv 2106.05963): dead leaves, spectral noise, fractals, textures, random generator networks.
"""

from __future__ import annotations

import numpy as np

from edge_ad.training.generated.camera import photograph
from edge_ad.training.generated.kinds import KINDS, Kind
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

__all__ = ["KINDS", "Kind", "generated_image", "photograph"]

_SMALLEST = 16
_CUMULATIVE = np.cumsum([kind.share for kind in KINDS])


def generated_image(seed: int, index: int, height: int, width: int) -> Image:
    """Picture ``index`` of the endless series ``seed``: ``uint8 HxWx3`` RGB.

    It depends on the arguments alone, so nothing needs to be stored or sent to a resumed training.

    Raises:
        InputError: ``seed`` or ``index`` is negative, or a side is below 16 px.
    """
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and index {index} of a generated image must not be negative")
    if min(height, width) < _SMALLEST:
        raise InputError(f"generated images have at least {_SMALLEST} px a side, not {width}x{height}")
    rng = np.random.default_rng((seed, index))
    kind = KINDS[min(int(np.searchsorted(_CUMULATIVE, rng.random(), "right")), len(KINDS) - 1)]
    return photograph(rng, kind.draw(rng, height, width))
