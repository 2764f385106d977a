"""The distillation job: going on after a stop or a kill, options, online mode, precision, the teacher's file."""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_ad.checkpoint import load_tensors
from edge_ad.cli import main
from edge_ad.distill import job
from edge_ad.distill.batches import CachedBatches
from edge_ad.distill.cache import ViewCache
from edge_ad.distill.config import DistillConfig, preset
from edge_ad.distill.extractors import ExtractorOptions, open_extractor
from edge_ad.distill.group import Group
from edge_ad.distill.job import distill
from edge_ad.distill.trainer import Trainer
from edge_ad.distill.views import ViewSet
from edge_ad.nets.architecture import architecture
from edge_ad.nets.pdn import Pdn
from edge_ad.teacher import find_teacher, load_teacher, save_teacher
from edge_ad_runtime.errors import DataError, InputError, RunError
from edge_ad_runtime.stopping import StopRequest
from tests.distill import kill
from tests.distill.common import RandomExtractor, StopAfter, small
from tests.distill.test_extractors import write_onnx


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_tensors(out / "teacher.safetensors")[0]


def assert_same_teacher(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


@pytest.mark.parametrize("online", [False, True])
def test_killed_anywhere_and_gone_on_gives_the_same_teacher(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    """SIGKILL in the statistics, the extraction, the steps, and between a report and its checkpoint."""
    monkeypatch.setattr(job, "REPORT_EVERY", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = kill.options(online)
    assert distill(pictures, RandomExtractor(), whole, config, "cpu", StopRequest())
    torch.set_num_threads(threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([kill.__name__])

    def killed(looks: int | None) -> None:
        process = context.Process(target=kill.distill, args=(pictures, broken, looks, online))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL

    # Behind the first saved sum; behind the validation views; behind three shards (or none) and three steps.
    killed(5)
    assert (broken / "statistics.safetensors").exists() and not (broken / "projection.safetensors").exists()
    killed(6)
    assert (broken / "projection.safetensors").exists() and not (broken / "checkpoint.safetensors").exists()
    killed(3 if online else 6)
    assert [line["step"] for line in metrics(broken)] == [2]
    killed(None)
    assert [line["step"] for line in metrics(broken)] == [2, 4]
    assert int(load_tensors(broken / "checkpoint.safetensors")[1]["step"]) < 4
    torch.set_num_threads(1)
    assert distill(pictures, RandomExtractor(), broken, config, "cpu", StopRequest())
    torch.set_num_threads(threads)
    assert_same_teacher(whole, broken)
    assert [line["step"] for line in metrics(broken)] == [2, 4, 6]
    assert without_time(metrics(broken)) == without_time(metrics(whole))


def test_stopped_anywhere_and_gone_on_gives_the_same_teacher(pictures: Path, tmp_path: Path) -> None:
    extractor = RandomExtractor()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = distill(pictures, extractor, whole, small(), "cpu", StopRequest())
    assert result is not None and np.isfinite(result.mse)
    stops = 0
    # One more look each time: first inside the statistics, then the extraction, then the steps.
    while distill(pictures, extractor, broken, small(), "cpu", StopAfter(stops + 1)) is None:
        stops += 1
        assert stops < 20
    assert stops >= 3
    assert_same_teacher(whole, broken)
    teacher, size, provenance = load_teacher(whole / "teacher.safetensors")
    assert (size, teacher.out_channels, provenance["extractor"]) == ("n", 64, "random")
    assert provenance["layers"][0] == "fine (NCHW, 48 channels, 16x16 cells)"
    assert without_time(metrics(whole)) == without_time(metrics(broken))
    # A finished one is only measured again, and its file written again.
    (whole / "teacher.safetensors").unlink()
    again = distill(pictures, extractor, whole, small(teacher_precision="fp16"), "cpu", StopRequest())
    assert again is not None and again.mse == result.mse
    assert len(metrics(whole)) == 1
    assert all(v.dtype == torch.float16 for v in weights(whole).values())
    with pytest.raises(InputError, match="has 6 steps already"):
        distill(pictures, extractor, whole, small(steps=5), "cpu", StopRequest())


def test_other_options_or_another_extractor_in_the_same_folder_are_refused(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert distill(pictures, RandomExtractor(), out, small(steps=1), "cpu", StopRequest())
    with pytest.raises(InputError, match="other options \\(seed\\)"):
        distill(pictures, RandomExtractor(), out, small(steps=1, seed=1), "cpu", StopRequest())
    other = RandomExtractor()
    other.record = {"extractor_input": "0..1", "extractor_sha256": "00"}
    with pytest.raises(InputError, match="other options \\(extractor_sha256\\)"):
        distill(pictures, other, out, small(steps=1), "cpu", StopRequest())


@pytest.mark.parametrize("online", [False, True])
def test_training_lowers_the_error(pictures: Path, tmp_path: Path, online: bool) -> None:
    options = small(views=12, steps=30, batch=4, rate=3e-3, online=online)
    result = distill(pictures, RandomExtractor(), tmp_path / "out", options, "cpu", StopRequest())
    assert result is not None
    # A constant prediction has a mean square error of 1, the outputs' variance.
    assert metrics(tmp_path / "out")[-1]["train_mse"] < 2.0
    assert result.mse < 1.0
    # Online nothing but the validation views is kept.
    assert bool(list((tmp_path / "out" / "train").iterdir())) != online


def test_broken_image_and_too_few_are_named(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        distill(tmp_path, RandomExtractor(), tmp_path / "out", small(), "cpu", StopRequest())
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(
            path.read_bytes()[:-20] if path.name == "3.png" else path.read_bytes()
        )
    for online in (False, True):
        with pytest.raises(InputError, match=r"3\.png"):
            distill(
                folder, RandomExtractor(), tmp_path / f"{online}", small(online=online), "cpu", StopRequest()
            )


def test_damaged_files_in_the_folder_are_named(pictures: Path, tmp_path: Path) -> None:
    for name in ("train/00000.npy", "projection.safetensors", "checkpoint.safetensors", "config.json"):
        out = tmp_path / name.replace("/", "-")
        assert distill(pictures, RandomExtractor(), out, small(steps=1), "cpu", StopRequest())
        (out / name).write_bytes((out / name).read_bytes()[:60])
        with pytest.raises(RunError, match=name.rpartition("/")[2]):
            distill(pictures, RandomExtractor(), out, small(steps=2), "cpu", StopRequest())


def test_views_depend_on_seed_and_number_only(pictures: Path) -> None:
    paths = tuple(sorted(pictures.iterdir()))
    views = ViewSet(paths, 64, 3)
    view, large = views.draw(5)
    assert view.shape == (64, 64, 3)
    assert large.shape == (128, 128, 3)
    assert np.array_equal(view, views.draw(5)[0])
    assert not np.array_equal(view, views.draw(11)[0])
    whole = ViewSet(paths, 64, 3, "whole", grayscale=0)
    assert np.array_equal(whole.draw(5)[0], whole.draw(11)[0])
    grey = ViewSet(paths, 64, 3, "whole", grayscale=1).draw(5)[0]
    assert np.array_equal(grey[..., 0], grey[..., 2])
    shuffled = ViewSet(paths, 64, 3, "whole", 0, shuffled=True)
    drawn = [shuffled.draw(i)[0].tobytes() for i in range(60)]
    assert len(set(drawn)) == 6 and drawn[:6] != drawn[6:12]


def test_preset_of_the_paper() -> None:
    config = preset("paper")
    assert (config.size, config.batch, config.steps, config.rate, config.weight_decay) == (
        "s", 16, 60_000, 1e-4, 1e-5,
    )  # fmt: skip
    assert (config.schedule, config.projection, config.crop, config.grayscale) == (
        "constant", "pool", "whole", 0.1,
    )  # fmt: skip
    assert (config.statistics, config.clip, config.online) == (10_000, 0, True)
    assert preset("paper", size="m", online=False).size == "m"
    assert preset("default") == DistillConfig()
    assert preset("default", size="s").projection == "pool"
    with pytest.raises(InputError, match="preset 'x' is unknown: default, paper"):
        preset("x")
    with pytest.raises(InputError, match="multiple of 16"):
        preset("default", view_size=100)


def test_papers_rate_is_constant_and_its_gradients_whole(pictures: Path, tmp_path: Path) -> None:
    cache = ViewCache(tmp_path, 4, 64, 64)
    targets = list(np.random.default_rng(0).normal(size=(4, 64, 16, 16)).astype(np.float16))
    cache.write(0, [ViewSet(tuple(sorted(pictures.iterdir())), 64, 0).draw(i)[0] for i in range(4)], targets)
    batches = CachedBatches(cache, 2, 0, Group())
    for clip, limit in ((0.0, None), (1e-3, 1e-3)):
        trainer = Trainer(small(schedule="constant", rate=1e-4, clip=clip), "cpu", Group())
        loss = trainer.backward(*batches(0))
        before = torch.cat([p.grad.flatten() for p in trainer.net.parameters() if p.grad is not None]).norm()
        trainer.update(loss)
        after = torch.cat([p.grad.flatten() for p in trainer.net.parameters() if p.grad is not None]).norm()
        assert trainer._optimizer.param_groups[0]["lr"] == 1e-4
        assert float(after) == pytest.approx(float(before) if limit is None else limit, rel=1e-3)


def test_fp16_scales_its_gradients_and_keeps_the_scale(tmp_path: Path, pictures: Path) -> None:
    """The trainer's part runs on the CPU, too; the job asks for a GPU, where fp16 has a use."""
    cache = ViewCache(tmp_path, 4, 64, 64)
    targets = list(np.zeros((4, 64, 16, 16), np.float16))
    cache.write(0, [ViewSet(tuple(sorted(pictures.iterdir())), 64, 0).draw(i)[0] for i in range(4)], targets)
    batches = CachedBatches(cache, 2, 0, Group())
    trainer, exact = (Trainer(small(precision=p), "cpu", Group()) for p in ("fp16", "fp32"))
    loss, true = trainer.backward(*batches(0)), exact.backward(*batches(0))
    for a, b in zip(trainer.net.parameters(), exact.net.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert (a.grad - b.grad).norm() < 0.02 * b.grad.norm()
    assert float(loss) == pytest.approx(float(true), rel=1e-2)
    trainer.update(loss)
    # A loss beyond fp16's range: the step is left out and the scale halved.
    trainer.backward(*batches(1))
    next(trainer.net.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
    halved = trainer._scaler.get_scale() / 2
    trainer._scaler._per_optimizer_states.clear()
    trainer._scaler.unscale_(trainer._optimizer)
    trainer.update(loss)
    assert trainer._scaler.get_scale() == halved
    trainer.save(tmp_path / "checkpoint")
    again = Trainer(small(precision="fp16"), "cpu", Group())
    again.load(tmp_path / "checkpoint")
    assert again._scaler.state_dict() == trainer._scaler.state_dict()
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        distill(pictures, RandomExtractor(), tmp_path / "out", small(precision="fp16"), "cpu", StopRequest())


def test_teacher_in_fp16_is_half_as_large_and_read_as_float32(tmp_path: Path) -> None:
    spec = architecture("n")
    torch.manual_seed(0)
    net = Pdn(spec.pdn.layers(spec.teacher_channels))
    for precision in ("fp32", "fp16"):
        save_teacher(tmp_path / precision, net, "n", {"made": "here"}, precision)
    sizes = [(tmp_path / p).stat().st_size for p in ("fp32", "fp16")]
    assert sizes[1] < 0.51 * sizes[0]
    read, size, provenance = load_teacher(tmp_path / "fp16")
    assert (size, provenance) == ("n", {"made": "here"})
    assert all(p.dtype == torch.float32 for p in read.parameters())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert (read(image) - net(image)).abs().max() < 2e-3 * net(image).std()
    with torch.no_grad():
        next(net.parameters())[0] = 1e5
    with pytest.raises(InputError, match=r"convs\.0\.weight are not finite in fp16"):
        save_teacher(tmp_path / "large", net, "n", {}, "fp16")
    assert not (tmp_path / "large").exists()


def test_command_line_says_what_it_taps(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx(tmp_path / "net.onnx")
    words = ["distill", str(pictures), "--extractor", str(path), "-o", str(tmp_path / "out"), "--steps", "2"]
    words += ["--views", "8", "--view-size", "64", "--batch", "2", "--precision", "fp32", "--size", "s"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--layers", "fine,coarse", "--teacher-precision", "fp16", "--json"])
    printed = capsys.readouterr()
    assert ended.value.code in (0, None)
    assert json.loads(printed.out)["steps"] == 2
    assert "net.onnx: input imagenet; fine (NCHW, 24 channels, 16x16 cells), coarse (NCHW, 40" in printed.err
    teacher, size, provenance = load_teacher(tmp_path / "out" / "teacher.safetensors")
    assert (size, teacher.out_channels, provenance["projection"]) == ("s", 384, "pool")
    assert provenance["extractor_layers"] == "fine,coarse"
    with pytest.raises(SystemExit) as ended:
        main([*words, "--layers", "fine,nothing"])
    assert ended.value.code == 1
    assert "has no tensor 'nothing'" in capsys.readouterr().err
    assert open_extractor(str(path), ExtractorOptions(("fine",))).name == "net.onnx"


def test_shipped_teacher_is_small_and_whole() -> None:
    path, name, digest = find_teacher("n", None)
    assert path.stat().st_size <= 4e6
    assert name == "shipped n.safetensors"
    assert len(digest) == 64
    net, size, provenance = load_teacher(path)
    assert size == "n"
    assert provenance["held_out_mse"] < 0.5
    assert not any(p.requires_grad for p in net.parameters())
