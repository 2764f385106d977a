"""The teacher with fewer hidden channels, fitted to the one that it was made of.

Teacher and student of a narrow run have the same narrow layers. The teacher's are not trained anew: the channels
that tell the most of the others stay, and least squares fit each layer to what the layers before it have become.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edge_ad.describe import pdn_layers
from edge_ad.nets.architecture import check_width
from edge_ad.nets.model import normalize
from edge_ad.nets.pdn import Pdn
from edge_ad.training.augment import random_grey
from edge_ad.training.feed import Penalty, on_device
from edge_ad.training.images import ImageStore
from edge_ad_converters.compress.narrow import narrow_chain, narrowed

# Of each kind; a few hundred places of each image are looked at.
FIT_IMAGES = 64
_CPU = torch.device("cpu")


def narrow_teacher(
    teacher: Pdn, body: int, share: float, images: ImageStore, penalty: Penalty | None, seed: int
) -> Pdn:
    """A teacher whose body has a share of the channels and whose output is as near to the old one as can be.

    Near on training images and, where there are any, on penalty images. The result depends on the arguments
    alone.

    Args:
        teacher: with its padding.
        body: how many of its first layers are narrowed.
        share: of each of these layers' channels; see :func:`edge_ad.nets.architecture.narrow_pdn`.
        images: to train on.
        penalty: where there are penalty images.
        seed: of the places looked at and of the penalty images.

    Raises:
        InputError: the share does not do.
    """
    check_width(share)
    layers = pdn_layers(teacher)
    widths = [s.channels for s in teacher.specs[:-1]]
    widths = [*narrowed(widths[:body], share), *widths[body:]]
    fitted = narrow_chain(layers, widths, _pictures(images, penalty, seed), seed)
    specs = [replace(s, channels=len(layer.bias)) for s, layer in zip(teacher.specs, fitted, strict=True)]
    narrow = Pdn(specs, teacher.padded)
    state = {}
    for i, layer in enumerate(fitted):
        state[f"convs.{i}.weight"], state[f"convs.{i}.bias"] = layer.weight, layer.bias
    narrow.load_state_dict(state)
    return narrow.eval().requires_grad_(False)


def _pictures(images: ImageStore, penalty: Penalty | None, seed: int) -> list[Tensor]:
    """``float32 1x3xHxW``, ImageNet-normalized."""
    spread = np.linspace(0, len(images) - 1, min(len(images), FIT_IMAGES)).round().astype(int)
    found = [normalize(on_device(images[int(i)], _CPU)) for i in spread]
    if penalty is not None:
        for i in range(FIT_IMAGES):
            rng = np.random.default_rng((seed, 3, i))
            found.append(normalize(random_grey(on_device(penalty.batch(i, 1, rng), _CPU), rng)))
    return found
