"""From the extractor's channels to the teacher's: statistics in one pass, and the linear map made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor
from tqdm import tqdm

from edge_ad.distill.extractors import Extractor
from edge_ad.distill.features import patch_features
from edge_ad.distill.group import Group
from edge_ad.distill.views import ViewSet
from edge_ad_runtime.errors import InputError, RunError
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.stopping import StopRequest

# Views to a batch of the extractor, and batches of each process between two saved states.
BATCH = 8
_SPAN = 4


@dataclass(frozen=True)
class Moments:
    """Count, mean (``float64 F``) and scatter matrix (``float64 FxF``, centred) of some cells' features."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, cells: Tensor) -> Moments:
        """Of ``float32 FxN``: F channels, N cells.

        Two passes over the batch. The products are summed in float32: once centred, values are small, and
        a relative error of about 1e-5 of a variance does not matter here, while float64 would take twice as long.
        """
        exact = cells.double()
        mean = exact.mean(1)
        centred = (exact - mean[:, None]).float()
        return cls(cells.shape[1], mean.cpu(), (centred @ centred.T).double().cpu())

    def merged(self, other: Moments) -> Moments:
        """Of both sets of cells, without cancellation (Chan, Golub, LeVeque 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), scatter)

    @property
    def covariance(self) -> Tensor:
        """``float64 FxF``."""
        return self.scatter / (self.count - 1)


@dataclass(frozen=True)
class Projection:
    """A linear map from the extractor's channels to the teacher's: ``matrix @ (features - mean)``.

    ``matrix`` is ``float32 CxF``, ``mean`` ``float32 F``; ``explained`` is the share of the standardized
    features' variance that the C outputs keep.
    """

    mean: Tensor
    matrix: Tensor
    explained: float

    def __call__(self, features: Tensor) -> Tensor:
        """``NxFxhxw`` to ``NxCxhxw``, on the features' device."""
        mean, matrix = self.mean.to(features.device), self.matrix.to(features.device)
        # Subtracted first: where a mean is large against the deviation, a joint offset would cancel digits.
        centred = (features - mean[:, None, None]).flatten(2)
        return (matrix @ centred).view(-1, len(matrix), *features.shape[2:])

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        tensors = {"mean": self.mean, "matrix": self.matrix, "explained": torch.tensor(self.explained)}
        return save({k: v.contiguous() for k, v in tensors.items()})

    @classmethod
    def read(cls, path: Path) -> Projection:
        """Read what :meth:`to_bytes` made.

        Raises:
            RunError: the file is damaged.
        """
        try:
            read = load(path.read_bytes())
            return cls(read["mean"], read["matrix"], float(read["explained"]))
        except Exception as error:
            raise RunError(f"{path}: is damaged ({error}); remove it to have it made again") from error


def make_projection(moments: Moments, channels: int, method: str) -> Projection:
    """The projection onto ``channels`` outputs.

    ``pca`` keeps the leading principal directions of the standardized channels, scaled together so that
    the mean variance of an output is 1: a narrow teacher then spends its channels where the features
    vary. ``pool`` averages neighbouring channels as PatchCore and the paper do, each output standardized.
    Channels that never vary count for nothing.

    Raises:
        InputError: the extractor has fewer varying channels than ``pca`` is to keep, or none.
    """
    covariance = moments.covariance
    std = covariance.diagonal().clamp_min(0).sqrt()
    # Relative to the mean, the rounding of a constant in float32 is about 1e-7.
    alive = std > 1e-6 * moments.mean.abs().clamp_min(1e-30)
    varying = int(alive.sum())
    if varying == 0 or (method == "pca" and varying < channels):
        raise InputError(
            f"{varying} of the extractor's {len(std)} channels vary over the images; "
            f"{channels} teacher channels need {'more' if method == 'pca' else 'some'}"
        )
    inverse = torch.where(alive, 1 / torch.where(alive, std, 1), 0)
    correlation = covariance * torch.outer(inverse, inverse)
    if method == "pca":
        values, vectors = torch.linalg.eigh(correlation)
        values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]
        matrix = vectors.T * inverse / values.mean().sqrt()
        explained = float(values.sum() / correlation.trace())
    else:
        eye = torch.eye(len(std), dtype=torch.double)
        pool = torch.nn.functional.adaptive_avg_pool1d(eye[None], channels)[0].T
        deviation = (pool @ covariance @ pool.T).diagonal().clamp_min(0).sqrt()
        # An output of constant channels only stays at 0.
        floor = 1e-6 * (pool @ moments.mean).abs().clamp_min(1e-30)
        matrix = torch.where(deviation > floor, 1 / deviation.clamp_min(1e-30), 0)[:, None] * pool
        explained = _explained(matrix, covariance, correlation)
    return Projection(moments.mean.float(), matrix.float(), explained)


def _explained(matrix: Tensor, covariance: Tensor, correlation: Tensor) -> float:
    return float((matrix @ covariance @ matrix.T).trace() / correlation.trace())


def channel_moments(
    extractor: Extractor, views: ViewSet, sample: int, state: Path, group: Group, stop: StopRequest
) -> Moments | None:
    """The moments of the features of the first ``sample`` views, computed by all processes together.

    The first process keeps the sum so far in the file ``state``, and an interrupted call goes on from it.
    Returns None when asked to stop, and the same moments to every process otherwise.
    """
    starts = range(0, sample, BATCH)
    total, done = group.from_first(lambda: _read_state(state))
    span = _SPAN * group.world
    with tqdm(
        total=len(starts), initial=done, desc="statistics", unit="batch", disable=not group.first
    ) as bar:
        while done < len(starts):
            found: list[Moments] = []

            def measure(start: int, found: list[Moments] = found) -> None:
                found.append(_moments(extractor, views, range(start, min(start + BATCH, sample))))

            batches = starts[done : done + span]
            if not group.in_turns(batches, measure, stop):
                return None
            done += len(batches)
            # In the order of the views, whichever process had them.
            shares = group.gather(found)
            for i in range(len(batches)):
                part = shares[i % group.world][i // group.world]
                total = part if total is None else total.merged(part)
            if group.first and total is not None:
                write_atomically(state, _state(total, done))
            bar.update(len(batches))
    return total


def _moments(extractor: Extractor, views: ViewSet, indices: range) -> Moments:
    features = patch_features(extractor([views.draw(i)[1] for i in indices]).tensors)
    # Neighbouring cells overlap and tell little new: every second one in each direction is enough.
    return Moments.of(features[:, :, ::2, ::2].permute(1, 0, 2, 3).flatten(1))


def _state(moments: Moments, done: int) -> bytes:
    counts = torch.tensor([moments.count, done])
    return save({"counts": counts, "mean": moments.mean, "scatter": moments.scatter})


def _read_state(path: Path) -> tuple[Moments | None, int]:
    if not path.exists():
        return None, 0
    try:
        read = load(path.read_bytes())
        return Moments(int(read["counts"][0]), read["mean"], read["scatter"]), int(read["counts"][1])
    except Exception as error:
        raise RunError(f"{path}: is damaged ({error}); remove it to have it made again") from error
