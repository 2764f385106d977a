"""The benchmark on real, short trainings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_ad.benchmark.job import Benchmark, find_categories, run_benchmark
from edge_ad.benchmark.records import claim_folder, read_results
from edge_ad.benchmark.table import markdown
from edge_ad.run_folder import read_config
from edge_ad.training.options import TrainOptions
from edge_ad_runtime.errors import DataError, InputError
from edge_ad_runtime.stopping import StopRequest
from tests.conftest import write_parts
from tests.evaluation.conftest import call

OPTIONS = TrainOptions(steps=2, penalty="none", precision="fp32")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two data sets."""
    root = tmp_path_factory.mktemp("root")
    write_parts(root / "nut", size=32)
    write_parts(root / "bolt", size=48)
    return root


def benchmark(
    root: Path,
    out: Path,
    seeds: list[int],
    said: list[str],
    options: TrainOptions = OPTIONS,
    int8: bool = False,
) -> Benchmark:
    return run_benchmark(
        find_categories([root]), out, options, seeds, device="cpu", int8=int8, stop=StopRequest(),
        say=said.append, after_each=lambda results: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a benchmark of both sets with seed 1."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    done = benchmark(root, out, [1], [])
    assert [(r.category, r.seed) for r in done.results] == [("bolt", 1), ("nut", 1)]
    assert not done.failures and not done.stopped
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_categories_are_sets_or_hold_them(root: Path, parts: Path, tmp_path: Path) -> None:
    assert [c.name for c in find_categories([root])] == ["bolt", "nut"]
    assert [c.name for c in find_categories([root / "nut", parts])] == ["nut", "data"]
    write_parts(tmp_path / "other" / "nut", size=32)
    names = [c.name for c in find_categories([root / "nut", tmp_path / "other"])]
    assert names == [f"{root.name}-nut", "other-nut"]
    with pytest.raises(DataError, match="called"):
        find_categories([root / "nut", root / "nut"])


def test_what_cannot_be_trained_or_measured_is_refused_at_once(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_categories([tmp_path / "absent"])
    with pytest.raises(DataError, match="holds no images"):
        find_categories([tmp_path])
    with pytest.raises(DataError, match="good and defective"):
        find_categories([parts / "train" / "good"])
    shutil.copytree(parts / "test", tmp_path / "only" / "test")
    with pytest.raises(DataError, match="no good images"):
        find_categories([tmp_path / "only"])


def test_finished_pairs_are_not_done_again(root: Path, out: Path) -> None:
    said: list[str] = []
    first = read_results(out)
    figures = first[0].figures
    assert figures.image_auroc is not None and figures.steps == 2 and figures.train_seconds
    assert figures.aupro is None and figures.spro is None and figures.int8_aupro is None
    weights = out / "nut" / "seed-1" / "run" / "student.safetensors"
    before = weights.stat().st_mtime_ns
    # Another seed of one set: the table stays that of everything in the folder.
    more = benchmark(root / "nut", out, [1, 2], said)
    assert [(r.category, r.seed) for r in more.results] == [("bolt", 1), ("nut", 1), ("nut", 2)]
    assert list(more.results[:2]) == first and weights.stat().st_mtime_ns == before
    assert [line for line in said if "done before" in line] == ["[1/2] nut, seed 1: done before"]


def test_a_lost_result_is_measured_without_training(root: Path, out: Path) -> None:
    before = read_results(out)
    (out / "nut" / "seed-1" / "result.json").unlink()
    weights = out / "nut" / "seed-1" / "run" / "student.safetensors"
    trained = weights.stat().st_mtime_ns
    assert list(benchmark(root, out, [1], []).results) == before
    assert weights.stat().st_mtime_ns == trained
    (out / "nut" / "seed-1" / "result.json").write_text('{"category": "nut"}')
    with pytest.raises(InputError, match=r"result\.json: is damaged"):
        benchmark(root, out, [1], [])


def test_other_options_are_refused(root: Path, out: Path) -> None:
    with pytest.raises(InputError, match=r"other options \(batch\)"):
        benchmark(root, out, [1], [], TrainOptions(steps=2, penalty="none", precision="fp32", batch=2))


def test_one_failure_does_not_stop_the_others(root: Path, out: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(root / "bolt", tmp_path / "sets" / "clip"))
    image = broken / "train" / "good" / "003.png"
    image.write_bytes(image.read_bytes()[:-40])
    (tmp_path / "sets" / "nut").symlink_to(root / "nut")
    said: list[str] = []
    got = benchmark(tmp_path / "sets", out, [1], said)
    assert len(got.failures) == 1 and "clip, seed 1" in got.failures[0] and "003.png" in got.failures[0]
    assert said[-1] == "[2/2] nut, seed 1: done before" and len(got.results) == 2


def test_another_set_of_the_same_name_is_refused(out: Path, tmp_path: Path) -> None:
    write_parts(tmp_path / "nut", size=32)
    with pytest.raises(InputError, match="is of"):
        benchmark(tmp_path / "nut", out, [1], [])


def test_int8_is_measured_too(root: Path, out: Path) -> None:
    before = next(r for r in read_results(out) if r.category == "nut")
    said: list[str] = []
    after = next(r for r in benchmark(root / "nut", out, [1], said, int8=True).results if r.category == "nut")
    assert not before.int8 and after.int8
    assert after.figures.int8_image_auroc is not None
    assert after.figures.train_seconds == before.figures.train_seconds
    assert "INT8 image AUROC" in markdown([after], OPTIONS) and "INT8" not in markdown([before], OPTIONS)
    # Those that have it are not converted again, whether it is asked for or not.
    for int8 in (True, False):
        benchmark(root / "nut", out, [1], said, int8=int8)
        assert "done before" in said[-1]


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds no benchmark"):
        claim_folder(tmp_path, OPTIONS)
    (tmp_path / "b").mkdir()
    claim_folder(tmp_path / "b", OPTIONS)
    claim_folder(tmp_path / "b", OPTIONS)
    (tmp_path / "b" / "options.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        claim_folder(tmp_path / "b", OPTIONS)


def test_a_stopped_benchmark_goes_on(root: Path, tmp_path: Path) -> None:
    """Ctrl-C in a training, by a real signal, then the same command again."""
    out = tmp_path / "out"
    args: list[str | Path] = [
        "benchmark",
        root / "nut",
        "-o",
        out,
        "--steps",
        "30",
        "--penalty-images",
        "none",
        "--threads",
        "1",
    ]
    command = [sys.executable, "-c", "from edge_ad.cli import main; main()", *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = out / "nut" / "seed-42" / "run"
    deadline = time.monotonic() + 120
    while not (run / "config.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "go on with the same command" in stderr and stdout == ""
    assert (run / "checkpoint.safetensors").exists() and not (run.parent / "result.json").exists()
    done = call(*args, "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert [r["figures"]["steps"] for r in got["results"]] == [30]
    assert json.loads((out / "benchmark.json").read_text()) == got
    assert read_config(run)[0].seed == 42


def test_the_command_takes_the_training_options(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(
        "benchmark", root / "nut", "-o", out, "--steps", "1", "--penalty-images", "none", "--score", "topk:9",
        "--seeds", "3,4", "--seed", "3", "--threads", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "score topk:9" in done.stdout and "Seeds: 3, 4" in done.stdout
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[4:]] == ["nut", "mean of 1"]
    assert (out / "benchmark.md").read_text() == done.stdout
    config, _ = read_config(out / "nut" / "seed-4" / "run")
    assert (config.steps, config.score, config.seed) == (1, "topk:9", 4)
    for option, value in (("--seed", "x"), ("--seeds", "1,,2"), ("--seed", "-1"), ("--epochs", "0")):
        assert call("benchmark", root, "-o", out, option, value).returncode == 2
