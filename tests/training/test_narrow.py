"""Trainings with fewer hidden channels: the teacher is fitted, repeatable, and everything after it takes the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_ad.describe import describe, pdn_layers
from edge_ad.nets.architecture import PdnSpec, architecture, narrow_pdn
from edge_ad.nets.model import normalize, to_tensor
from edge_ad.nets.pdn import Pdn
from edge_ad.run_folder import SplitRecord, build_nets, open_run, read_config, write_config
from edge_ad.teacher import load_teacher
from edge_ad.training.feed import open_penalty
from edge_ad.training.images import training_store
from edge_ad.training.job import train
from edge_ad.training.narrow import narrow_teacher
from edge_ad.training.options import TrainOptions
from edge_ad_converters.compress.narrow import narrow_chain, narrowed
from edge_ad_converters.fuse import fuse
from edge_ad_runtime.errors import InputError, RunError
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import run_config, run_plan
from tests.training.test_job import StopAfter, assert_same

BODY = 3


def test_widths_are_whole_multiples_and_never_grow() -> None:
    assert narrowed((32, 96, 160), 0.5) == (16, 48, 80)
    assert narrowed((32, 96, 160), 0.1) == (16, 16, 16)
    assert narrowed((8, 20), 0.9) == (8, 16)
    spec = architecture("m").pdn
    slim = narrow_pdn(spec, 0.5)
    assert [c.channels for c in slim.body] == [128, 256, 256, 256] and slim.head == spec.head


@pytest.mark.parametrize("padded", [False, True])
def test_channels_that_repeat_others_are_cut_without_loss(padded: bool) -> None:
    """A network's hidden channels twice, each reader with half of the weight for each copy."""
    torch.manual_seed(3)
    own = architecture("n").pdn
    slim = Pdn(narrow_pdn(own, 0.5).layers(8), padded)
    layers = []
    for i, layer in enumerate(pdn_layers(slim)):
        weight, bias = layer.weight, layer.bias
        if i:
            weight = torch.cat((weight, weight), 1) / 2
        if i < BODY:
            weight, bias = torch.cat((weight, weight)), torch.cat((bias, bias))
        layers.append(replace(layer, weight=weight, bias=bias))
    images = [torch.randn(1, 3, 96, 96) for _ in range(3)]
    found = narrow_chain(layers, [16, 48, 80], images, seed=1)
    assert [len(layer.bias) for layer in found] == [16, 48, 80, 8]
    cut = Pdn(slim.specs, padded)
    cut.load_state_dict(
        {f"convs.{i}.{n}": getattr(layer, n) for i, layer in enumerate(found) for n in ("weight", "bias")}
    )
    unseen = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        wanted, got = slim(unseen), cut(unseen)
    assert (wanted - got).abs().max() < 1e-2 * wanted.std()


def test_the_narrow_teacher_is_fitted_to_the_wide_one(
    parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.training.narrow.FIT_IMAGES", 4)
    config = run_config(parts, random_teacher, 1, penalty="generated")
    teacher, _, _ = load_teacher(random_teacher)
    images = training_store(sorted((parts / "train" / "good").glob("*.png"))[:5], config.preprocess)
    penalty = open_penalty(config)
    made = [narrow_teacher(teacher, BODY, 0.75, images, penalty, 42) for _ in range(2)]
    assert [s.channels for s in made[0].specs] == [*narrowed((32, 96, 160), 0.75), 64]
    a, b = (m.state_dict() for m in made)
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    batch = normalize(to_tensor(images[0]))
    with torch.no_grad():
        wanted, got = teacher(batch), made[0](batch)
        cut = [p.clone() for p in teacher.parameters()]
    scatter = (wanted - wanted.mean((2, 3), keepdim=True)).square().mean()
    assert (wanted - got).square().mean() < 0.3 * scatter
    assert all(torch.equal(x, y) for x, y in zip(cut, teacher.parameters(), strict=True))


def test_a_narrow_run_trains_resumes_and_opens(
    tmp_path: Path, parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.training.narrow.FIT_IMAGES", 2)
    changes: dict[str, Any] = {"width": 0.5, "evaluate_every": 2}
    made = run_plan(parts, random_teacher, 3, **changes)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, made, "cpu", StopRequest(), resume=False)
    assert train(broken, made, "cpu", StopAfter(2), resume=False) is None
    with pytest.raises(RunError, match=r"other options \(.*width"):
        other = run_plan(parts, random_teacher, 3, **(changes | {"width": 0.75}))
        train(broken, other, "cpu", StopRequest(), resume=True)
    assert train(broken, made, "cpu", StopRequest(), resume=True)
    assert_same(whole, broken)
    nets = open_run(whole).nets
    assert [s.channels for s in nets.teacher.specs] == [16, 48, 80, 64]
    assert [s.channels for s in nets.student.specs] == [80, 128]
    image = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    with torch.inference_mode():
        maps = fuse(describe(nets))(image)
    assert all(bool(torch.isfinite(m).all()) for m in maps)


@pytest.mark.parametrize("width", [0.0, -0.5, 1.5, float("nan")])
def test_an_unusable_width_is_named(width: float) -> None:
    with pytest.raises(InputError, match="share of the hidden channels"):
        TrainOptions(width=width)


def test_a_run_from_before_the_option_reads_as_it_was(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    config = run_config(parts, random_teacher, 1)
    write_config(tmp_path, config, SplitRecord({}, {}))
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["width"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_config(tmp_path)[0] == config
    own: PdnSpec = architecture("n").pdn
    assert build_nets(config).architecture.pdn == own
