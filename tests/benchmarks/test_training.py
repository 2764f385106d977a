"""The training benchmark runs, and both loops do the same work; the figure itself is for people to read."""

from __future__ import annotations

import pytest
import torch

from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad.training.losses import clean_outputs, step_losses
from tests.benchmarks.training import PlainLoop, measure


def test_the_plain_loop_computes_the_same_gradients() -> None:
    torch.manual_seed(3)
    images = torch.randn(32, 3, 256, 256)
    plain = PlainLoop("n", images, images.flip(0))
    torch.manual_seed(0)
    ours = EfficientAdNets(architecture("n"), (256, 256))
    # Dropout draws differ in order, and augmentation is random: leave both out.
    plain.nets.eval()
    ours.eval()
    loss = plain.loss(images[:1], images[1:2], images[2:3])
    torch.autograd.backward(loss)
    losses = step_losses(ours, clean_outputs(ours, images[:1]), images[2:3], images[1:2], 0.999)
    torch.autograd.backward(losses.total)
    assert losses.total.item() == pytest.approx(loss.item(), rel=1e-4)
    for (name, a), (_, b) in zip(
        plain.nets.student.named_parameters(), ours.student.named_parameters(), strict=True
    ):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-2, atol=1e-5), name


@pytest.mark.study
@pytest.mark.parametrize("size", ["n", "s"])
def test_the_whole_benchmark(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = measure(size, 4, "cpu", "auto")
    with capsys.disabled():
        print(f"\n{result}")
    assert isinstance(result["speedup"], float) and result["speedup"] > 1
