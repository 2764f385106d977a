"""Channel statistics against a reference of two passes, and the projections made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_ad.distill.features import patch_features
from edge_ad.distill.group import Group
from edge_ad.distill.projection import Moments, Projection, channel_moments, make_projection
from edge_ad.distill.views import ViewSet
from edge_ad_runtime.errors import InputError, RunError
from edge_ad_runtime.stopping import StopRequest
from tests.distill.common import RandomExtractor, StopAfter


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_one_pass_agrees_with_two(mean: float) -> None:
    """Mean 1e4 and deviation 1: the sum of squares in float32 would keep no correct digit."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    cells = (mixing / mixing.norm(dim=1, keepdim=True)) @ torch.randn(6, 40_000, generator=generator) + mean
    # Batches of different sizes, and a drift that makes their means differ.
    cells[:, 30_000:] += 3
    parts = [Moments.of(part) for part in cells.split([8192, 8192, 1, 13_615, 10_000], dim=1)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    exact = cells.double()
    reference = torch.cov(exact)
    assert merged.count == 40_000
    assert (merged.mean - exact.mean(1)).abs().max() < 1e-9 * max(mean, 1)
    assert (merged.covariance - reference).abs().max() < 2e-6 * reference.diagonal().max()
    if mean:
        naive = (cells @ cells.T) / 40_000 - torch.outer(cells.mean(1), cells.mean(1))
        assert (naive - reference).abs().max() > 1  # what this avoids


def test_targets_are_standard_where_the_mean_is_large() -> None:
    cells = torch.randn(6, 4096, generator=torch.Generator().manual_seed(0)) + 1e4
    projection = make_projection(Moments.of(cells), 3, "pool")
    targets = projection(cells.T[:, :, None, None])[:, :, 0, 0]
    assert targets.mean(0).abs().max() < 1e-3
    assert targets.std(0) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("method", ["pca", "pool"])
def test_projection_standardizes_the_targets(pictures: Path, tmp_path: Path, method: str) -> None:
    views = ViewSet(tuple(sorted(pictures.iterdir())), 64, 0)
    extractor = RandomExtractor()
    moments = channel_moments(extractor, views, 12, tmp_path / "state", Group(), StopRequest())
    assert moments is not None
    projection = make_projection(moments, 16, method)
    cells = []
    for i in range(12):
        features = patch_features(extractor([views.draw(i)[1]]).tensors)
        cells.append(projection(features)[:, :, ::2, ::2].permute(1, 0, 2, 3).flatten(1))
    targets = torch.cat(cells, 1)
    assert targets.mean(1).abs().max() < 1e-3
    assert targets.var(1).mean() == pytest.approx(1, abs=1e-2)
    covariance = torch.cov(targets)
    if method == "pca":
        off_diagonal = covariance - torch.diag(covariance.diagonal())
        assert off_diagonal.abs().max() < 1e-2
        assert 0 < projection.explained <= 1
    else:
        assert covariance.diagonal() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("method", ["pca", "pool"])
def test_dead_channels_count_for_nothing(method: str) -> None:
    cells = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    cells[:4] = torch.tensor([0.0, 3.3, 1e4, -7e-9])[:, None]
    projection = make_projection(Moments.of(cells), 4, method)
    targets = projection(cells.T[:, :, None, None])[:, :, 0, 0]
    assert torch.isfinite(targets).all()
    dead = [] if method == "pca" else [0, 1]
    assert all(float(targets[:, i].abs().max()) == 0 for i in dead)
    alive = [i for i in range(4) if i not in dead]
    assert targets[:, alive].var(0).mean() == pytest.approx(1, abs=1e-2)
    assert 0 < projection.explained <= 1 + 1e-6


def test_too_few_channels_are_said() -> None:
    cells = torch.randn(8, 100)
    with pytest.raises(
        InputError, match=r"8 of the extractor's 8 channels vary.*16 teacher channels need more"
    ):
        make_projection(Moments.of(cells), 16, "pca")
    # Pooling to more channels than there are repeats some, as PatchCore's does.
    assert make_projection(Moments.of(cells), 16, "pool").matrix.shape == (16, 8)
    with pytest.raises(InputError, match="0 of the extractor's 8"):
        make_projection(Moments.of(torch.ones(8, 100)), 4, "pool")


def test_statistics_go_on_bit_for_bit(pictures: Path, tmp_path: Path) -> None:
    views = ViewSet(tuple(sorted(pictures.iterdir())), 64, 0)
    extractor = RandomExtractor()
    whole = channel_moments(extractor, views, 70, tmp_path / "whole", Group(), StopRequest())
    stops = 0
    while (parts := channel_moments(extractor, views, 70, tmp_path / "parts", Group(), StopAfter(4))) is None:
        stops += 1
        assert (tmp_path / "parts").exists() and stops < 9
    assert whole is not None and stops == 2
    assert whole.count == parts.count
    assert torch.equal(whole.scatter, parts.scatter) and torch.equal(whole.mean, parts.mean)


def test_projection_file(tmp_path: Path) -> None:
    projection = make_projection(Moments.of(torch.randn(8, 100)), 4, "pca")
    file = tmp_path / "projection.safetensors"
    file.write_bytes(projection.to_bytes())
    read = Projection.read(file)
    assert torch.equal(read.matrix, projection.matrix)
    assert np.isclose(read.explained, projection.explained)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunError, match="damaged"):
        Projection.read(file)
