"""The processes that distil together, started by ``torchrun``; one process is a group of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from edge_ad_runtime.errors import EdgeAdError, InputError, RunError
from edge_ad_runtime.stopping import StopRequest

T = TypeVar("T")

# torchrun ends the others when one process dies, so a long wait is only ever for slow work.
_PATIENCE = timedelta(days=1)
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Group:
    """``rank`` of ``world`` processes; rank 0 writes the files."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, *flags: bool, error: Exception | None = None) -> tuple[bool, ...]:
        """Each flag as any process has it: all processes go the same way.

        Raises:
            RunError: another process reports an error; in that process, the error itself.
        """
        if self.world == 1:
            if error is not None:
                raise error
            return flags
        states = torch.tensor([error is not None, *flags], dtype=torch.uint8)
        dist.all_reduce(states, dist.ReduceOp.MAX)
        if states[0]:
            self._report(error)
        return tuple(bool(s) for s in states[1:])

    def _report(self, error: Exception | None) -> None:
        texts = self.gather(str(error) or type(error).__name__ if error is not None else "")
        if error is not None:
            raise error
        rank, text = next((r, t) for r, t in enumerate(texts) if t)
        raise RunError(f"process {rank} of {self.world} failed: {text}")

    def gather(self, item: T) -> list[T]:
        """Every process's item, by rank."""
        if self.world == 1:
            return [item]
        items: list[T] = [item] * self.world
        dist.all_gather_object(items, item)
        return items

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the first process, in all of them; an error there is one everywhere."""
        error: Exception | None = None
        items: list[T | None] = [None]
        if self.first:
            try:
                items[0] = make()
            except Exception as caught:  # noqa: BLE001 - every process must hear of it
                error = caught
        self.agree(error=error)
        if self.world > 1:
            dist.broadcast_object_list(items)
        return items[0]  # type: ignore[return-value]

    def in_turns(self, jobs: Sequence[T], work: Callable[[T], None], stop: StopRequest) -> bool:
        """Do the jobs, each process every ``world``-th; False when one was asked to stop before the end.

        Between two jobs the processes agree whether to go on, so a stop or an error in one ends all.
        """
        error: Exception | None = None
        for start in range(0, len(jobs), self.world):
            if self.agree(stop.requested, error=error)[0]:
                return False
            mine = start + self.rank
            if mine < len(jobs):
                try:
                    work(jobs[mine])
                except Exception as caught:  # noqa: BLE001 - every process must hear of it
                    error = caught
        self.agree(error=error)
        return True


def launched_processes() -> int:
    """How many processes ``torchrun`` started for this job; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _LAUNCHED) else 1


@contextmanager
def process_group(device: str) -> Iterator[tuple[Group, str]]:
    """Join the other processes where ``torchrun`` started this one; gives the group and this process's device.

    gloo connects CPUs, NCCL the GPUs, one for each process of a host.

    Raises:
        InputError: there are more processes on this host than GPUs.
        RunError: another process has gone, or cannot be reached.
    """
    if not all(name in os.environ for name in _LAUNCHED):
        yield Group(), device
        return
    group = Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local + 1} on this host finds {torch.cuda.device_count()} GPUs; "
                "start one process for each GPU (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    try:
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=_PATIENCE)
        yield group, device
    except RuntimeError as error:
        if isinstance(error, EdgeAdError) or not _is_lost_peer(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"process {group.rank} of {group.world}: another process has gone or cannot be reached; its message "
            f"says why, and the same command goes on ({reason})"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lost_peer(error: RuntimeError) -> bool:
    # gloo raises a plain RuntimeError; only its text tells.
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
