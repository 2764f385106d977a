"""The teacher's output projected on its leading principal directions.

Both maps are means over the channels of a squared difference, which no rotation of the channels changes. The
difference's parts in the trailing principal directions are small, so leaving them out changes the maps by
little, and the last convolutions of all three nets shrink. The directions keep their energy: with all of them
the maps are those of the channels. Made equal again, weak ones would count like strong ones;
docs/training.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from edge_ad.nets.architecture import check_directions
from edge_ad.nets.model import normalize
from edge_ad.nets.pdn import Pdn
from edge_ad.training.augment import random_grey
from edge_ad.training.feed import Penalty, on_device
from edge_ad.training.images import ImageStore
from edge_ad.training.statistics import channel_statistics
from edge_ad_runtime.errors import RunError

# Each has some thousand patches; the directions settle with far fewer.
PENALTY_IMAGES = 128


@dataclass(frozen=True)
class Projected:
    """A teacher whose output is already normalized and projected, and the share of the energy that it keeps."""

    teacher: Pdn
    energy: float


def project_teacher(
    teacher: Pdn, directions: float, images: ImageStore, penalty: Penalty | None, seed: int
) -> Projected:
    """Project a teacher's normalized output on the leading principal directions, in its last convolution.

    They are those of the second moments (about 0, which the student is held to on penalty images) over all
    training images and over ``PENALTY_IMAGES`` penalty images, both halves weighing the same: what the
    teacher's output does on good parts, and on what is none. The result depends on the arguments alone.

    Args:
        teacher: with its padding, on the device to compute on.
        directions: how many, or the share of the energy to be kept.
        images: to train on.
        penalty: where there are penalty images.
        seed: of the choice of penalty images.

    Raises:
        InputError: more directions are asked for than the teacher has channels.
        RunError: the teacher's output does not vary.
    """
    check_directions(directions, teacher.out_channels)
    mean, std = channel_statistics(teacher, images)
    device = next(teacher.parameters()).device
    moments = second_moments(teacher, mean, std, _training(images, device))
    if penalty is not None:
        moments = (moments + second_moments(teacher, mean, std, _penalty(penalty, seed, device))) / 2
    basis, energy = leading_directions(moments, directions)
    return Projected(fold(teacher, mean, std, basis), energy)


def second_moments(teacher: Pdn, mean: Tensor, std: Tensor, batches: Iterable[Tensor]) -> Tensor:
    """The mean of ``z z^T`` over all patches, ``float64 CxC``, where ``z`` is the normalized output.

    ``batches`` are ``float32 Nx3xHxW``, ImageNet-normalized, on the teacher's device.
    """
    total, count = torch.zeros(len(mean), len(mean), dtype=torch.double), 0
    for batch in batches:
        with torch.inference_mode():
            raw = teacher(batch).double().cpu()
        z = (raw.permute(1, 0, 2, 3).flatten(1) - mean[:, None]) / std[:, None]
        total += z @ z.T
        count += z.shape[1]
    return total / count


def leading_directions(moments: Tensor, directions: float) -> tuple[Tensor, float]:
    """The leading eigenvectors as orthonormal rows, ``float64 RxC``, and the share of the trace that they keep.

    ``directions`` is R, or the share that the fewest possible of them are to keep.

    Raises:
        RunError: the moments are all 0.
    """
    values, vectors = torch.linalg.eigh(moments)
    values, basis = values.flip(0).clamp_min(0), vectors.flip(1).T
    if not values[0] > 0:
        raise RunError("the teacher's output is the same for all images: it has no principal directions")
    shares = values.cumsum(0) / values.sum()
    if isinstance(directions, int):
        count = directions
    else:
        count = min(len(shares), int((shares < directions).sum()) + 1)
    # An eigenvector's sign is arbitrary: its largest component shall be positive.
    signs = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    return (basis * signs)[:count], float(shares[count - 1])


def fold(teacher: Pdn, mean: Tensor, std: Tensor, basis: Tensor) -> Pdn:
    """The teacher with normalization and projection in its last convolution, which has no ReLU.

    ``mean`` and ``std`` are ``float64 C``, ``basis`` is ``float64 RxC``. The factor ``sqrt(R / C)`` keeps the
    scale of losses and maps: their mean over R values is the sum over the directions divided by C.
    """
    count, channels = basis.shape
    last = len(teacher.specs) - 1
    conv = teacher.convs[last]
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    matrix = basis * math.sqrt(count / channels) / std
    weight, bias = (t.detach().cpu().double() for t in (conv.weight, conv.bias))
    state = {k: v.cpu() for k, v in teacher.state_dict().items()}
    state[f"convs.{last}.weight"] = torch.einsum("rc,cikl->rikl", matrix, weight).float()
    state[f"convs.{last}.bias"] = (matrix @ (bias - mean)).float()
    net = Pdn((*teacher.specs[:-1], replace(teacher.specs[-1], channels=count)), teacher.padded)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def _training(images: ImageStore, device: torch.device) -> Iterator[Tensor]:
    for i in tqdm(range(len(images)), desc="directions", leave=False):
        yield normalize(on_device(images[i], device))


def _penalty(penalty: Penalty, seed: int, device: torch.device) -> Iterator[Tensor]:
    for i in tqdm(range(PENALTY_IMAGES), desc="directions of penalty images", leave=False):
        rng = np.random.default_rng((seed, 2, i))
        image = on_device(penalty.batch(i, 1, rng), device)
        yield normalize(random_grey(image, rng))
