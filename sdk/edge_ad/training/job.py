"""The training job: data, teacher statistics, the loop, quantiles, and going on after an interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import torch
from tqdm import tqdm

from edge_ad.data import Dataset, content_hash
from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad.nets.pdn import Pdn
from edge_ad.run_folder import (
    CALIBRATION,
    CHECKPOINT,
    CONFIG,
    RunConfig,
    SplitRecord,
    build_nets,
    finish,
    open_run,
    read_config,
    write_config,
)
from edge_ad.teacher import load_teacher
from edge_ad.training.curves import draw_curves
from edge_ad.training.directions import project_teacher
from edge_ad.training.feed import CleanCache, Feed, StepImages, open_penalty, step_tensors
from edge_ad.training.images import Ahead, ImageStore, network_store
from edge_ad.training.losses import Losses, step_losses
from edge_ad.training.narrow import narrow_teacher
from edge_ad.training.options import Plan
from edge_ad.training.points import (
    BEST,
    POINTS,
    calibrate,
    evaluate_point,
    keep_point,
    open_validation,
    raw_maps,
)
from edge_ad.training.schedules import parse_schedule, rate_factor
from edge_ad.training.state import (
    Progress,
    append_metrics,
    cut_metrics,
    load_state,
    read_metrics,
    read_progress,
    save_state,
)
from edge_ad.training.statistics import fit_teacher_statistics
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import RunError
from edge_ad_runtime.stopping import StopRequest

REPORT_EVERY = 100
CHECKPOINT_SECONDS = 60
# Steps that a budget's speed is measured over; the first ones, slower, do not count.
_WARM_UP, _TIMED = 3, 12
# What a budget keeps back: steps are not the only work, and the machine may get busier.
_RESERVE = 0.05
Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class TrainResult:
    """A finished training: its calibration on the validation images, its steps and the time they took.

    ``directions`` is how many principal directions the teacher was projected on, and ``energy`` the share of
    its output's energy that they keep; None where it was not.
    """

    calibration: Calibration
    steps: int
    seconds: float
    directions: int | None = None
    energy: float | None = None


def train(
    out: Path, plan: Plan, device: str, stop: StopRequest, resume: bool, clock: Clock = time.monotonic
) -> TrainResult | None:
    """Train a run (arXiv 2303.14535, Algorithm 1) and write it to ``out``.

    Every random choice of step k depends on the seed and k alone, so a resumed run does the same steps as
    an uninterrupted one (but for a budget, which looks at the clock). Returns None when asked to stop before
    the end; ``resume`` goes on from there. ``clock`` gives seconds.

    Raises:
        DataError, ImageError: the images do not do.
        RunError: ``out`` holds another run, or the teacher does not fit.
    """
    start = clock()
    config = _check_folder(out, plan.config, split_record(plan), resume)
    trainer = Trainer(out, dataclasses.replace(plan, config=config), device, clock)
    if not resume:
        if config.budget is not None:
            trainer.choose_steps(start)
        write_config(out, trainer.config, trainer.split)
    if not trainer.run(start, stop):
        return None
    steps = trainer.progress.step
    calibration = trainer.finish()
    directions = None if config.directions is None else trainer.config.teacher_channels
    return TrainResult(calibration, steps, trainer.progress.seconds, directions, _energy(out))


def _energy(out: Path) -> float | None:
    found = [e for line in read_metrics(out) if (e := line.get("energy")) is not None]
    return found[-1] if found else None


def split_record(plan: Plan) -> SplitRecord:
    """Names and contents of the images trained on and held out."""
    split = plan.split
    return SplitRecord(_hashes(split.train, plan.dataset), _hashes(split.validation, plan.dataset))


def _hashes(paths: Sequence[Path], dataset: Dataset) -> dict[str, str]:
    return {str(p.relative_to(dataset.root)): content_hash(p) for p in paths}


def _check_folder(out: Path, config: RunConfig, record: SplitRecord, resume: bool) -> RunConfig:
    """Check that ``out`` holds no run yet, or the one to go on with; returns the configuration to use."""
    if not resume:
        if (out / CONFIG).exists():
            done = (out / CALIBRATION).exists()
            hint = "choose another folder or remove it" + ("" if done else ", or go on with --resume")
            raise RunError(f"{out}: holds a {'finished' if done else 'started'} run; {hint}")
        return config
    before, before_record = read_config(out)
    if (out / CALIBRATION).exists():
        raise RunError(f"{out}: this run is finished; there is nothing to resume")
    # First, because the length of an epoch, and so the options, depend on the number of images.
    if _all_images(before_record) != _all_images(record):
        raise RunError(f"{out}: the images in {config.data} have changed since the run was started")
    if config.budget is not None or _only_unfinished(out, before, config):
        # The steps were chosen by the speed measured then, or are those that were done in the end.
        config = msgspec.structs.replace(config, steps=before.steps)
    if config.directions is not None and config.directions == before.directions:
        # A share of the energy has become a number of directions.
        config = msgspec.structs.replace(config, teacher_channels=before.teacher_channels)
    if before != config:
        names = [f for f in RunConfig.__struct_fields__ if getattr(before, f) != getattr(config, f)]
        raise RunError(
            f"{out}: the run was started with other options ({', '.join(names)}); use the same ones"
        )
    if before_record != record:
        raise RunError(f"{out}: the images are split in another way than when the run was started")
    return config


def _all_images(record: SplitRecord) -> dict[str, str]:
    return record.train | record.validation


def _only_unfinished(out: Path, before: RunConfig, config: RunConfig) -> bool:
    """Whether all steps are done and on record, so that only the results are missing."""
    may_be_fewer = config.patience is not None or config.keep == "best"
    if not may_be_fewer or before.steps >= config.steps or not (out / CHECKPOINT).exists():
        return False
    progress = read_progress(out / CHECKPOINT)
    return progress.step == progress.end


def _decode_all(stores: Sequence[ImageStore]) -> None:
    """Decode every image before the first step, so that a broken one is named at once."""
    with tqdm(total=sum(map(len, stores)), desc="images", unit="image", leave=False) as progress:
        for store in stores:
            for i in range(len(store)):
                store[i]
                progress.update()


def _read_teacher(path: Path, config: RunConfig) -> Pdn:
    teacher, size, _ = load_teacher(path, config.padded)
    needed = config.projected_from or config.teacher_channels or architecture(config.size).teacher_channels
    if size != config.size or teacher.out_channels != needed:
        raise RunError(
            f"{path}: is a teacher of size '{size}' with {teacher.out_channels} channels; "
            f"size '{config.size}' needs {needed}"
        )
    return teacher


class Trainer:
    """The nets, the optimizers and the loop of one training."""

    def __init__(self, out: Path, plan: Plan, device: str, clock: Clock = time.monotonic) -> None:
        """Read every image and build the nets; nothing is written yet.

        Raises:
            DataError, ImageError, RunError: see :func:`train`.
        """
        config = plan.config
        self.out, self.config, self.split = out, config, split_record(plan)
        self.device, self.clock = torch.device(device), clock
        self.images = network_store(plan.split.train, config.preprocess)
        self.validation = open_validation(plan.split.validation, plan.labelled, config)
        labelled = [self.validation.labelled] if self.validation.labelled else []
        _decode_all([self.images, self.validation.good, *labelled])
        penalty = open_penalty(config)
        teacher = _read_teacher(plan.teacher, config)
        # Share of the energy that the directions keep; a checkpoint holds the changed teacher.
        self.energy: float | None = None
        resumes = (out / CHECKPOINT).exists()
        if config.width is not None and not resumes:
            teacher = narrow_teacher(
                teacher,
                len(architecture(config.size).pdn.body),
                config.width,
                self.images,
                penalty,
                config.seed,
            )
        if config.directions is not None and not resumes:
            wanted = config.directions if config.teacher_channels is None else config.teacher_channels
            images = self.images
            projected = project_teacher(teacher.to(self.device), wanted, images, penalty, config.seed)
            teacher, self.energy = projected.teacher, projected.energy
            config = msgspec.structs.replace(config, teacher_channels=teacher.out_channels)
            self.config = config
        torch.manual_seed(config.seed)
        self.nets = build_nets(config)
        if not resumes:
            self.nets.teacher.load_state_dict(teacher.state_dict())
        self.nets.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = _optimizers(self.nets, config)
        self.schedule = parse_schedule(config.hard_quantile)
        self.feed = Feed(config, self.images, penalty)
        self.progress = Progress(0, config.steps)
        # Seconds that the work after the last step takes, as far as it is known.
        self.closing = 0.0
        self._prepared = False

    def prepare(self) -> None:
        """Teacher statistics; after this the steps can run. A projected teacher is normalized already."""
        if not self._prepared and self.config.directions is None:
            fit_teacher_statistics(self.nets, self.images)
        self._prepared = True
        self.nets.train()

    @contextlib.contextmanager
    def steps(self) -> Iterator[Callable[[int], Losses]]:
        """A function that does a step, with the images of the next ones made ahead."""
        clean = CleanCache(self.nets, self.images)
        with Ahead(self.feed.make) as ahead:
            yield lambda step: self._step(ahead.get(step), clean, step)

    def choose_steps(self, start: float) -> None:
        """Take as many steps as the budget allows, measured by a few of them, which the nets then forget.

        Raises:
            RunError: the budget is too short for a single step.
        """
        config = self.config
        assert config.budget is not None
        self.prepare()
        fresh = {k: v.clone() for k, v in self.nets.state_dict().items()}
        times = []
        with self.steps() as do_step:
            for step in range(_WARM_UP + _TIMED):
                began = self.clock()
                # Reading the loss waits until a GPU has done the step.
                float(do_step(step).total)
                times.append(self.clock() - began)
        began = self.clock()
        evaluate_point(self.nets, config, self.validation, 0)
        evaluation = self.clock() - began
        self.closing = 2 * evaluation
        each = statistics.median(times[_WARM_UP:]) + evaluation / config.evaluate_every
        left = (config.budget - (self.clock() - start)) * (1 - _RESERVE) - self.closing
        if left < each:
            raise RunError(
                f"a budget of {config.budget:g} s is too short: reading the images took most of it, and a step "
                f"takes {each:.2f} s here"
            )
        self.nets.load_state_dict(fresh)
        self.optimizers = _optimizers(self.nets, config)
        self.config = msgspec.structs.replace(config, steps=int(left / each))
        self.progress = Progress(0, self.config.steps)

    def run(self, start: float, stop: StopRequest) -> bool:
        """All steps that are left; False when asked to stop before the end. A checkpoint is written either way."""
        config, checkpoint = self.config, self.out / CHECKPOINT
        if checkpoint.exists():
            self.progress = load_state(checkpoint, self.nets, self.optimizers)
            self._forget_lost_best()
            cut_metrics(self.out, self.progress.step)
        else:
            cut_metrics(self.out, -1)
            self.prepare()
            if self.energy is not None:
                append_metrics(self.out, {"step": 0, "energy": self.energy})
        self.nets.train()
        before = self.progress.seconds
        window: list[Losses] = []
        loop_start = window_start = last_save = self.clock()
        first, end = self.progress.step, self.progress.end
        with (
            tqdm(total=end, initial=first, desc="train", unit="step") as bar,
            self.steps() as do_step,
        ):
            while self.progress.step < self.progress.end:
                if stop.requested:
                    self.save(before + self.clock() - start)
                    draw_curves(self.out)
                    return False
                step = self.progress.step
                window.append(do_step(step))
                step += 1
                end = self.progress.end
                self.progress = msgspec.structs.replace(self.progress, step=step)
                bar.update()
                now = self.clock()
                if config.budget is not None:
                    self.hurry(before + now - start, step - first, now - loop_start)
                due = step % config.evaluate_every == 0 or step == self.progress.end
                if step % REPORT_EVERY == 0 or due:
                    self.report(window, now - window_start, bar, end)
                    if due:
                        self.evaluate()
                    bar.total = self.progress.end
                    window, window_start = [], self.clock()
                if now - last_save > CHECKPOINT_SECONDS:
                    self.save(before + self.clock() - start)
                    last_save = now
        # The calibration may yet be refused, for a validation image that has gone, say: keep the steps.
        self.save(before + self.clock() - start)
        return True

    def _step(self, images: StepImages, clean: CleanCache, step: int) -> Losses:
        """One step; the losses without their graph."""
        config, end = self.config, self.progress.end
        # The dropout of the autoencoder draws from torch's generator.
        torch.manual_seed(int(images.rng.integers(2**31)))
        tensors = step_tensors(images, self.nets)
        factor = rate_factor(step, end, config.decay_at)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = step_losses(
                self.nets,
                clean(images.picks, images.image),
                tensors.augmented,
                tensors.penalty,
                self.schedule.at(step / end),
            )
        for optimizer, rate in zip(self.optimizers, _rates(config), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad()
        torch.autograd.backward(losses.total)
        for optimizer in self.optimizers:
            optimizer.step()
        return Losses(*(x.detach() for x in losses))

    def report(self, window: Sequence[Losses], seconds: float, bar: tqdm, end: int) -> None:
        """Write the mean losses since the last report; ``end`` was the last step as the present one knew it."""
        step, config = self.progress.step, self.config
        means = {k: float(torch.stack([getattr(w, k) for w in window]).mean()) for k in Losses._fields}
        if not all(map(math.isfinite, means.values())):
            raise RunError(f"the loss is no longer finite at step {step} ({means}); lower the learning rate")
        bar.set_postfix({k: f"{v:.3f}" for k, v in means.items()})
        append_metrics(
            self.out,
            {
                "step": step,
                "epoch": step * config.batch / len(self.images),
                **means,
                "hard_quantile": self.schedule.at((step - 1) / end),
                "rate": config.rate * rate_factor(step - 1, end, config.decay_at),
                "images_per_s": len(window) * config.batch / seconds,
            },
        )

    def evaluate(self) -> None:
        """An evaluation point: measure, keep the nets if wanted, stop early if nothing has come of it for long."""
        config, progress = self.config, self.progress
        began = self.clock()
        measured = evaluate_point(self.nets, config, self.validation, progress.step)
        self.closing = 2 * (self.clock() - began)
        self.nets.train()
        seen = msgspec.structs.replace(config, steps=progress.step)
        if measured is None:
            return
        point, calibration = measured
        append_metrics(self.out, msgspec.to_builtins(point))
        watch = progress.watch.after(point)
        if config.keep == "all":
            keep_point(self.out, f"{point.step:06d}", self.nets, seen, self.split, calibration)
        if config.keep == "best" and watch.best == point:
            keep_point(self.out, BEST, self.nets, seen, self.split, calibration)
        self.progress = msgspec.structs.replace(progress, watch=watch)
        if config.patience is not None and watch.stale >= config.patience:
            self.wind_up(progress.step / config.decay_at)

    def hurry(self, seconds: float, steps: int, spent: float) -> None:
        """Bring the end forward where the budget's time would run out before it.

        Args:
            seconds: that all of the training has taken.
            steps: done by this process.
            spent: seconds that these steps took, with their evaluation points.
        """
        assert self.config.budget is not None
        left = self.config.budget * (1 - _RESERVE / 2) - self.closing - seconds
        if left <= 0:
            self.wind_up(self.progress.step)
        elif steps >= REPORT_EVERY and steps % REPORT_EVERY == 0:
            self.wind_up(self.progress.step + int(left * steps / spent))

    def _forget_lost_best(self) -> None:
        """A crash while the best point was replaced may have left none: then the next point is the best."""
        if self.config.keep == "best" and not (self.out / POINTS / BEST).exists():
            watch = msgspec.structs.replace(self.progress.watch, best=None)
            self.progress = msgspec.structs.replace(self.progress, watch=watch)

    def wind_up(self, end: float) -> None:
        """Make ``end`` the last step, unless it was earlier already; the lower learning rate comes before it."""
        bounded = max(self.progress.step, min(self.progress.end, math.ceil(end)))
        self.progress = msgspec.structs.replace(self.progress, end=bounded)

    def save(self, seconds: float) -> None:
        """Write the checkpoint."""
        self.progress = msgspec.structs.replace(self.progress, seconds=seconds)
        save_state(self.out / CHECKPOINT, self.nets, self.optimizers, self.progress)

    def finish(self) -> Calibration:
        """Calibrate on the validation images and write the results."""
        steps = self.progress.step
        if self.config.keep == "best" and (self.out / POINTS / BEST).exists():
            best = open_run(self.out / POINTS / BEST)
            self.nets.load_state_dict(best.nets.state_dict())
            steps = best.config.steps
        self.nets.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        calibration = calibrate(raw_maps(self.nets, self.validation.good, self.config), self.config)
        draw_curves(self.out)
        if steps != self.config.steps:
            # An early stop or a budget ended it, or an earlier point was the best: the record says how many
            # steps the nets have seen.
            write_config(self.out, msgspec.structs.replace(self.config, steps=steps), self.split)
        finish(self.out, self.nets, calibration)
        return calibration


def _optimizers(nets: EfficientAdNets, config: RunConfig) -> list[torch.optim.Optimizer]:
    """One Adam for both nets, or one for each."""
    student, autoencoder = list(nets.student.parameters()), list(nets.autoencoder.parameters())
    groups = [student + autoencoder] if config.autoencoder_rate is None else [student, autoencoder]
    return [
        torch.optim.Adam(group, lr=rate, weight_decay=config.weight_decay, fused=True)
        for group, rate in zip(groups, _rates(config), strict=True)
    ]


def _rates(config: RunConfig) -> list[float]:
    own = config.autoencoder_rate
    return [config.rate] if own is None else [config.rate, own]
