"""Distillation by two real processes under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edge_ad.checkpoint import load_tensors
from edge_ad.distill.group import Group
from edge_ad.distill.job import distill
from edge_ad_runtime.stopping import StopRequest
from tests.distill.common import RandomExtractor, Tapped, TwoLayers
from tests.distill.processes import gradients, options
from tests.distill.test_extractors import write_torchscript

ROOT = Path(__file__).parents[2]


def torchrun(*words: object) -> subprocess.Popen[str]:
    """Two processes that find each other by themselves."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # A busy machine may need more than torchrun's 30 s between SIGTERM and SIGKILL.
    command += ["--shutdown-timeout", "100", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """What two processes left in the folder."""
    folder = tmp_path_factory.mktemp("together")
    process = torchrun("-m", "tests.distill.processes", folder, pictures)
    _, errors = process.communicate(timeout=300)
    assert (folder / "lost.txt").exists(), errors
    return folder


def test_two_processes_have_the_gradients_of_one(together: Path) -> None:
    alone = gradients(Group())
    for rank in (0, 1):
        shared = torch.load(together / f"gradients{rank}.pth", weights_only=True)
        assert shared.keys() == alone.keys()
        for name, gradient in alone.items():
            assert (shared[name] - gradient).norm() < 1e-5 * gradient.norm()


def test_two_processes_train_the_teacher_of_one(together: Path, pictures: Path, tmp_path: Path) -> None:
    result = distill(pictures, RandomExtractor(), tmp_path, options(), "cpu", StopRequest())
    assert result is not None
    lines = [json.loads((folder / "metrics.jsonl").read_text()) for folder in (tmp_path, together / "whole")]
    for key in ("train_mse", "val_mse"):
        assert lines[0][key] == pytest.approx(lines[1][key], rel=1e-3)
    alone, shared = ((folder / "train/00001.npy").read_bytes() for folder in (tmp_path, together / "whole"))
    assert alone == shared


def test_a_stop_of_one_process_stops_all_and_they_go_on(together: Path) -> None:
    seen = [json.loads((together / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert [s["world"] for s in seen] == [2, 2]
    assert seen[0]["stops"] == seen[1]["stops"] >= 2
    assert [s["whole"] for s in seen] == [6, 6]
    assert [s["online"] for s in seen] == [2, 2]
    whole, broken = (load_tensors(together / n / "teacher.safetensors")[0] for n in ("whole", "broken"))
    for name, value in whole.items():
        assert torch.allclose(value, broken[name], rtol=1e-4, atol=1e-6)


def test_errors_reach_all_processes(together: Path) -> None:
    seen = [json.loads((together / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    for s in seen:
        assert (
            "a batch of 3 cannot be divided evenly among 2 processes; choose a multiple of 2" in s["uneven"]
        )
    assert seen[0]["broke"] == "RunError: process 1 of 2 failed: the extractor broke"
    assert seen[1]["broke"] == "ValueError: the extractor broke"


def test_a_lost_process_is_said(together: Path) -> None:
    text = (together / "lost.txt").read_text()
    assert text.startswith("process 0 of 2: another process has gone or cannot be reached")


def test_command_under_torchrun_is_stopped_by_sigterm_and_goes_on(pictures: Path, tmp_path: Path) -> None:
    net = write_torchscript(tmp_path / "net.ts", Tapped(TwoLayers(40)))
    out = tmp_path / "out"
    words = [
        "-m",
        "edge_ad.distill",
        pictures,
        "--extractor",
        net,
        "-o",
        out,
        "--view-size",
        64,
        "--batch",
        2,
    ]
    words += ["--views", 32, "--precision", "fp32", "--threads", 1, "--device", "cpu", "--steps"]

    # SIGTERM to torchrun, which hands it on: both stop at the same step and the first writes it down.
    process = torchrun(*words, 100_000)
    wait_for(out / "train" / "00000.npy", process)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert "the same command goes on" in errors, errors
    assert process.returncode != 0
    stopped = int(load_tensors(out / "checkpoint.safetensors")[1]["step"])

    # Both to the end.
    last = stopped + 2
    process = torchrun(*words, last, "--json")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output)["steps"] == last
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == last


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        assert process.poll() is None, process.communicate()[1]
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} does not appear")
