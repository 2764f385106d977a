"""The teacher projected on its leading principal directions: exact foldings, repeatable runs, clear refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edge_ad.cli.train import command
from edge_ad.describe import describe
from edge_ad.nets.architecture import SIZES, Architecture, architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad.run_folder import SplitRecord, build_nets, open_run, open_scorer, read_config, write_config
from edge_ad.teacher import load_teacher
from edge_ad.training.directions import fold, leading_directions, project_teacher
from edge_ad.training.feed import open_penalty
from edge_ad.training.images import training_store
from edge_ad.training.job import train
from edge_ad.training.options import Plan, TrainOptions, parse_directions, plan
from edge_ad_converters.fuse import fuse
from edge_ad_runtime.errors import InputError, RunError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import run_config, run_plan
from tests.training.test_job import StopAfter, assert_same

CHANNELS = 64


def narrow(size: str) -> Architecture:
    """A size with the same layers, a sixteenth as wide."""
    own = architecture(size)
    body = tuple(replace(c, channels=c.channels // 16) for c in own.pdn.body)
    return replace(own, pdn=replace(own.pdn, body=body), teacher_channels=24)


def projected_plan(parts: Path, teacher: Path, steps: int, directions: float, **changes: Any) -> Plan:
    channels = directions if isinstance(directions, int) else None
    return run_plan(
        parts, teacher, steps, directions=directions, projected_from=CHANNELS, teacher_channels=channels, **changes
    )  # fmt: skip


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("count", [24, 7])
def test_the_projected_map_is_that_of_the_projected_difference(size: str, count: int) -> None:
    """With all directions it is the map of the channels; so it is for the fused graph."""
    torch.manual_seed(1)
    shape = narrow(size)
    nets = EfficientAdNets(shape, (256, 256)).eval()
    nets.teacher_mean.normal_()
    nets.teacher_std.uniform_(0.05, 0.3)
    basis = torch.linalg.qr(torch.randn(24, 24, dtype=torch.double)).Q[:count]
    mean, std = nets.teacher_mean.flatten().double(), nets.teacher_std.flatten().double()
    projected_shape = replace(shape, teacher_channels=count, projected_from=24)
    projected = EfficientAdNets(projected_shape, (256, 256)).eval()
    projected.teacher.load_state_dict(fold(nets.teacher, mean, std, basis).state_dict())
    # The student and the autoencoder that predict the same directions: their last layers projected alike.
    matrix = basis * math.sqrt(count / 24)
    state = nets.student.state_dict() | {f"auto.{k}": v for k, v in nets.autoencoder.state_dict().items()}
    last, auto = len(nets.student.convs) - 1, len(nets.autoencoder.decoder) - 1
    both = torch.kron(torch.eye(2).double(), matrix.contiguous())
    for name, m in ((f"convs.{last}", both), (f"auto.decoder.{auto}", matrix)):
        for key in (f"{name}.weight", f"{name}.bias"):
            state[key] = torch.tensordot(m, state[key].double(), 1).float()
    projected.autoencoder.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("auto.")})
    projected.student.load_state_dict({k: v for k, v in state.items() if not k.startswith("auto.")})
    pixels = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    image = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / (
        torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    )
    with torch.inference_mode():
        trunk = nets.trunk(image)
        student = nets.student_split(trunk)
        wanted = []
        for a, b in (
            (nets.teacher_normalized(trunk), student.st),
            (nets.autoencoder(image), student.ae),
        ):
            directions = torch.einsum("rc,nchw->nrhw", basis, (a - b).double())
            wanted.append((directions**2).sum(1) / 24)
        if count == 24:
            for own, expected in zip(nets(image), wanted, strict=True):
                assert (own - expected).abs().max() < 1e-5 * expected.max()
        for maps in (projected(image), fuse(describe(projected))(pixels)):
            for got, expected in zip(maps, wanted, strict=True):
                assert (got - expected).abs().max() < 1e-5 * expected.max()


def test_directions_are_those_of_most_energy() -> None:
    torch.manual_seed(2)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.double)).Q
    moments = rotation @ torch.diag(torch.tensor([50.0, 30, 15, 4, 1]).double()) @ rotation.T
    for wanted, count, energy in (
        (2, 2, 0.8),
        (0.8 - 1e-9, 2, 0.8),
        (0.81, 3, 0.95),
        (0.999, 5, 1.0),
        (5, 5, 1),
    ):
        basis, kept = leading_directions(moments, wanted)
        assert basis.shape == (count, 5) and kept == pytest.approx(energy)
        torch.testing.assert_close(basis @ basis.T, torch.eye(count).double())
        torch.testing.assert_close(
            basis @ moments @ basis.T, torch.diag(torch.tensor([50.0, 30, 15, 4, 1][:count]).double())
        )
    # A rotation's direction has no sign of its own: ours must not depend on the eigensolver's.
    assert torch.equal(leading_directions(moments, 3)[0], leading_directions(moments * 4, 3)[0])
    with pytest.raises(RunError, match="no principal directions"):
        leading_directions(torch.zeros(3, 3, dtype=torch.double), 2)


def test_moments_are_of_training_and_penalty_images(
    parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked against a calculation over all patches at once."""
    monkeypatch.setattr("edge_ad.training.directions.PENALTY_IMAGES", 3)
    config = run_config(parts, random_teacher, 1, penalty="generated")
    teacher, _, _ = load_teacher(random_teacher)
    images = training_store(sorted((parts / "train" / "good").glob("*.png"))[:5], config.preprocess)
    penalty = open_penalty(config)
    assert penalty is not None
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = teacher.register_forward_hook(lambda _m, i, out: seen.append((i[0].clone(), out.double())))
    found = project_teacher(teacher, 16, images, penalty, 42)
    hook.remove()
    # One batch for the statistics, then each training image, then each penalty image.
    kinds = [[torch.cat(x) for x in zip(*part, strict=True)] for part in (seen[1:6], seen[6:9])]
    assert len(seen) == 9
    raw = kinds[0][1]
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3), unbiased=False)
    z = [((out.permute(0, 2, 3, 1) - mean) / std).reshape(-1, CHANNELS) for _, out in kinds]
    values = torch.linalg.eigvalsh(z[0].T @ z[0] / len(z[0]) / 2 + z[1].T @ z[1] / len(z[1]) / 2)
    assert found.energy == pytest.approx(float(values[-16:].sum() / values.sum()))
    # What the projected teacher gives has that energy, as a mean over all channels.
    energy = sum(float((found.teacher(image).double() ** 2).mean()) for image, _ in kinds) / 2
    assert energy == pytest.approx(float(values[-16:].sum()) / CHANNELS, rel=1e-4)
    again = project_teacher(teacher, 16, images, penalty, 42).teacher.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in found.teacher.state_dict().items())
    without = project_teacher(teacher, 16, images, None, 42).teacher.state_dict()
    assert not torch.equal(without["convs.3.weight"], again["convs.3.weight"])


def test_a_run_learns_directions_and_resumes_the_same(
    tmp_path: Path, parts: Path, random_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad.training.directions.PENALTY_IMAGES", 3)
    changes: dict[str, Any] = {"penalty": "generated", "evaluate_every": 2, "keep": "all"}
    made = projected_plan(parts, random_teacher, 3, 0.9, **changes)
    whole, broken, killed = tmp_path / "whole", tmp_path / "broken", tmp_path / "killed"
    result = train(whole, made, "cpu", StopRequest(), resume=False)
    assert result is not None and result.energy is not None and 0.9 <= result.energy < 1
    count = result.directions
    assert count is not None and 1 < count < CHANNELS
    config, split = read_config(whole)
    assert (config.directions, config.teacher_channels, config.projected_from) == (0.9, count, CHANNELS)
    assert train(broken, made, "cpu", StopAfter(2), resume=False) is None
    with pytest.raises(RunError, match=r"other options \(.*directions"):
        other = projected_plan(parts, random_teacher, 3, 0.8, **changes)
        train(broken, other, "cpu", StopRequest(), resume=True)
    resumed = train(broken, made, "cpu", StopRequest(), resume=True)
    assert resumed is not None and (resumed.directions, resumed.energy) == (count, result.energy)
    # Killed before the first checkpoint: the directions are found again.
    write_config(killed, config, split)
    assert train(killed, made, "cpu", StopRequest(), resume=True)
    for out in (broken, killed):
        assert_same(whole, out)
    run = open_run(whole)
    assert not run.nets.teacher_mean.any() and bool((run.nets.teacher_std == 1).all())
    assert run.nets.teacher.out_channels == count and run.nets.student.out_channels == 2 * count
    image = read_image(parts / "test" / "good" / "000.png")
    last, kept = open_scorer(whole).raw_maps(image), open_scorer(whole / "points" / "000003").raw_maps(image)
    assert np.array_equal(last.st, kept.st) and np.array_equal(last.ae, kept.ae)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": 0}, "directions 0 must be"),
        ({"directions": 1.0}, "directions 1.0 must be"),
        ({"directions": float("nan")}, "directions nan must be"),
        ({"directions": True}, "directions True must be"),
        ({"shared_layers": 4}, "4 shared layers: size 'n' can share 0 to 3"),
        ({"shared_layers": 6, "size": "m"}, "6 shared layers: size 'm' can share 0 to 5"),
        ({"autoencoder": "tiny"}, "autoencoder 'tiny' is unknown; use paper, light"),
    ],
)
def test_unusable_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainOptions(**changes)


def test_more_directions_than_channels_are_refused_with_the_numbers(
    parts: Path, random_teacher: Path
) -> None:
    made = plan(parts, TrainOptions(teacher=random_teacher, directions=CHANNELS), "cpu")
    assert made.config.teacher_channels == CHANNELS
    with pytest.raises(InputError, match="65 directions: the teacher has 64 channels"):
        plan(parts, TrainOptions(teacher=random_teacher, directions=CHANNELS + 1), "cpu")


@pytest.mark.parametrize(("text", "directions"), [("32", 32), ("1", 1), ("0.99", 0.99), (" 16 ", 16)])
def test_directions_in_words(text: str, directions: float) -> None:
    found = parse_directions(text)
    assert found == directions and type(found) is type(directions)


@pytest.mark.parametrize("text", ["", "0", "-3", "1.0", "32.0", "all", "nan", "²"])
def test_unusable_directions_are_usage_errors(tmp_path: Path, parts: Path, text: str) -> None:
    with pytest.raises(InputError, match="directions"):
        parse_directions(text)
    result = CliRunner().invoke(command, [str(parts), "-o", str(tmp_path / "run"), "--directions", text])
    assert result.exit_code == 2 and "directions" in result.output
    assert not (tmp_path / "run").exists()


def test_the_command_trains_with_all_cuts(tmp_path: Path, parts: Path, random_teacher: Path) -> None:
    out = tmp_path / "run"
    cuts = ["--shared-layers", "1", "--directions", "12", "--autoencoder", "paper"]
    result = CliRunner().invoke(
        command,
        [str(parts), "-o", str(out), "--teacher", str(random_teacher), "--steps", "1", *cuts,
         "--penalty-images", "none"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "12 of 64 directions keep" in result.output
    nets = open_run(out).nets
    assert len(nets.student.convs) == 3 and nets.teacher.out_channels == 12
    assert len(nets.autoencoder.sizes) == 6


def test_a_run_without_these_options_reads_as_before(
    tmp_path: Path, parts: Path, random_teacher: Path
) -> None:
    """A configuration from before the options existed builds the same nets."""
    config = run_config(parts, random_teacher, 1)
    write_config(tmp_path, config, SplitRecord({}, {}))
    fields = json.loads((tmp_path / "config.json").read_text())
    for name in ("directions", "projected_from", "shared_layers", "autoencoder"):
        del fields[name]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_config(tmp_path)[0] == config
    assert build_nets(config).architecture == architecture("n")
