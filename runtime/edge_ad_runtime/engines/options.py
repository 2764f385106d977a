"""What an engine can be told about how it shall use this machine. No option changes what is computed beyond rounding.

Left out on purpose, as measured with the INT8 graph of size n on two x86 cores or as documented by the engines:
onnxruntime's lower graph optimization levels (1.8 times the time, and other kernels than the conversion measured) and its
memory pattern (no difference with fixed shapes); OpenVINO's throughput hint (it gives one request a part of the cores; a line
has one image at a time); LiteRT without XNNPACK (5 times the time). The arithmetic's precision belongs to the bundle.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_ad_runtime.cores import MAX_CORE, format_cores, is_restricted, usable_cores
from edge_ad_runtime.errors import InputError

MAX_THREADS = 1024
Threads = Annotated[int, Meta(ge=1, le=MAX_THREADS)]
Core = Annotated[int, Meta(ge=0, le=MAX_CORE)]


class OrtOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """onnxruntime's own.

    ``spinning``: within a run a thread that waits for work burns its core meanwhile, else it sleeps, which costs a wake-up
    for each operator and wins where others want the cores, too (onnxruntime's documentation, "Thread management"). After
    the run they never spin: the cores belong to whatever comes next. ``arena`` keeps freed memory for the next run;
    without it a process is smaller and each run allocates anew.
    """

    spinning: bool = True
    arena: bool = True


class OpenVinoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenVINO's own (its documentation, "Performance Hints and Thread Scheduling").

    ``pinning`` binds each thread of the engine to one core (None: OpenVINO decides, which on Linux means yes); two
    processes may so be bound to the same core while others idle. ``core_type`` takes performance or efficiency cores only,
    on processors that have both. ``hyper_threading`` uses both logical cores of a physical one (None: OpenVINO decides).
    """

    pinning: bool | None = None
    core_type: Literal["any", "performance", "efficiency"] = "any"
    hyper_threading: bool | None = None


class TfliteOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """LiteRT's own. ``latest_kernels`` lets XNNPACK take operators by kernels that LiteRT does not yet switch on by
    default; the older tflite-runtime does not have it."""

    latest_kernels: bool = False


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an engine uses the machine. Every default is what the engine does untold.

    ``threads`` compute; None takes one for each core that the process may use. ``cpus`` are the cores on which the thread
    that opens the engine stays from then on, with all threads that it starts. Each engine reads its own struct only, and
    TensorRT, which computes on the GPU, reads ``cpus`` alone.

    Raises:
        InputError: a value is out of range.
    """

    threads: Threads | None = None
    cpus: tuple[Core, ...] | None = None
    ort: OrtOptions = OrtOptions()
    openvino: OpenVinoOptions = OpenVinoOptions()
    tflite: TfliteOptions = TfliteOptions()

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise InputError(f"an engine has 1 to {MAX_THREADS} threads, not {self.threads}")
        if self.cpus is not None and (
            not self.cpus
            or len(set(self.cpus)) < len(self.cpus)
            or min(self.cpus) < 0
            or max(self.cpus) > MAX_CORE
        ):
            raise InputError(f"cpus are different numbers from 0 to {MAX_CORE}, not {self.cpus}")

    @property
    def words(self) -> str:
        """What differs from the defaults, for people; ``defaults`` when nothing does."""
        told = [] if self.threads is None else [f"{self.threads} thread{'' if self.threads == 1 else 's'}"]
        if self.cpus is not None:
            told.append(f"cores {format_cores(self.cpus)}")
        if not self.ort.spinning:
            told.append("no spinning")
        if not self.ort.arena:
            told.append("no arena")
        if self.openvino.pinning is not None:
            told.append("pinned threads" if self.openvino.pinning else "no pinned threads")
        if self.openvino.core_type != "any":
            told.append(f"{self.openvino.core_type} cores")
        if self.openvino.hyper_threading is not None:
            told.append("hyper-threading" if self.openvino.hyper_threading else "no hyper-threading")
        if self.tflite.latest_kernels:
            told.append("latest kernels")
        return ", ".join(told) or "defaults"


def thread_count(options: EngineOptions) -> int | None:
    """The threads to ask an engine for; None leaves it to the engine, which then counts (and may bind to) all cores of the
    machine: only where this process may use them all."""
    if options.threads is not None:
        return options.threads
    return len(usable_cores()) if is_restricted() else None
