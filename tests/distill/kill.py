"""A distillation that kills itself, as a power cut would; started by test_job.py in a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from edge_ad.distill import job
from edge_ad.distill.config import DistillConfig
from edge_ad.distill.trainer import Trainer
from edge_ad_runtime.stopping import StopRequest
from tests.distill.common import RandomExtractor, StopAfter, small


def options(online: bool) -> DistillConfig:
    """Nine batches of statistics, three shards, six steps."""
    return small(views=80, statistics=70, online=online)


class _DiesOnSaving(Trainer):
    """Kills the process instead of writing the checkpoint of step 4."""

    def save(self, path: Path) -> None:
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(path)


def distill(pictures: Path, out: Path, looks: int | None, online: bool) -> None:
    """Die when asked for the ``looks``-th time whether to stop, or with None on saving step 4's checkpoint."""
    torch.set_num_threads(1)
    job.REPORT_EVERY, job.CHECKPOINT_SECONDS = 2, 0
    stop: StopRequest = StopRequest()
    if looks is None:
        job.Trainer = _DiesOnSaving  # type: ignore[attr-defined]
        job.CHECKPOINT_SECONDS = 1000
    else:
        stop = StopAfter(looks, kill=True)
    config = options(online)
    assert job.distill(pictures, RandomExtractor(), out, config, "cpu", stop) is not None
