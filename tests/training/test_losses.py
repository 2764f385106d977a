"""The losses of Algorithm 1: the hard-feature mean, and which loss moves which network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad.training.augment import jitter, random_grey
from edge_ad.training.losses import clean_outputs, hard_mean, step_losses


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 3000), quantile=st.sampled_from([0.5, 0.9, 0.99, 0.999]), seed=st.integers(0, 99))
def test_hard_mean_is_the_mean_at_or_above_the_quantile(n: int, quantile: float, seed: int) -> None:
    values = np.random.default_rng(seed).random(n)
    # numpy interpolates between two elements; rounding may put the quantile a hair above the element itself.
    expected = values[values >= np.quantile(values, quantile) - 1e-12].mean()
    assert hard_mean(torch.from_numpy(values), quantile).item() == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def nets() -> EfficientAdNets:
    torch.manual_seed(0)
    return EfficientAdNets(architecture("n"), (256, 256)).train()


def test_each_loss_moves_only_its_network(nets: EfficientAdNets) -> None:
    torch.manual_seed(1)
    image, augmented, penalty = torch.randn(3, 1, 3, 256, 256)
    for name, moved in (
        ("hard", "student"),
        ("penalty", "student"),
        ("ae", "autoencoder"),
        ("stae", "student"),
    ):
        nets.zero_grad(set_to_none=True)
        getattr(step_losses(nets, clean_outputs(nets, image), augmented, penalty, 0.999), name).backward()
        for part in ("teacher", "student", "autoencoder"):
            gradients = [p.grad for p in getattr(nets, part).parameters()]
            if part == moved:
                assert any(g is not None and g.abs().sum() > 0 for g in gradients), (name, part)
            else:
                assert all(g is None or not g.abs().sum() for g in gradients), (name, part)


def test_joined_passes_give_the_losses_of_separate_ones(nets: EfficientAdNets) -> None:
    torch.manual_seed(2)
    image, augmented, penalty = torch.randn(3, 1, 3, 256, 256)
    nets.eval()
    with torch.no_grad():
        joined = step_losses(nets, clean_outputs(nets, image), augmented, penalty, 0.999)
        difference = (
            nets.teacher_normalized(nets.trunk(image)) - nets.student_split(nets.trunk(image)).st
        ) ** 2
        threshold = torch.quantile(difference.flatten().double(), 0.999)
        hard = difference[difference >= threshold].mean()
        outside = (nets.student_split(nets.trunk(penalty)).st ** 2).mean()
        auto = nets.autoencoder(augmented)
        ae_loss = ((nets.teacher_normalized(nets.trunk(augmented)) - auto) ** 2).mean()
        stae_loss = ((auto - nets.student_split(nets.trunk(augmented)).ae) ** 2).mean()
    nets.train()
    for got, expected in zip(joined, (hard, outside, ae_loss, stae_loss), strict=True):
        assert got.item() == pytest.approx(expected.item(), rel=1e-4)


def test_jitter_changes_one_property_within_a_fifth() -> None:
    torch.manual_seed(3)
    image = 0.3 + 0.4 * torch.rand(1, 3, 32, 32)
    outcomes = {"brightness": 0, "contrast": 0, "saturation": 0}
    grey = (image * torch.tensor((0.2989, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)
    for seed in range(60):
        out = jitter(image, np.random.default_rng(seed))
        for name, centre in (
            ("brightness", 0 * image),
            ("contrast", grey.mean() + 0 * image),
            ("saturation", grey),
        ):
            factors = ((out - centre) / (image - centre)).flatten().median()
            if torch.allclose(out, centre + factors * (image - centre), atol=1e-4):
                assert 0.8 <= factors <= 1.2
                outcomes[name] += 1
    assert sum(outcomes.values()) == 60
    assert min(outcomes.values()) >= 10


def test_random_grey_happens_in_three_of_ten() -> None:
    image = torch.rand(1, 3, 8, 8)
    grey = 0
    for seed in range(500):
        out = random_grey(image, np.random.default_rng(seed))
        if not torch.equal(out, image):
            assert torch.equal(out[:, 0], out[:, 1])
            grey += 1
    assert grey / 500 == pytest.approx(0.3, abs=0.06)
