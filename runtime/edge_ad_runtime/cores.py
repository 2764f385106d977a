"""The processor's cores: which ones this process may use, and keeping it on some of them.

A core here is a logical CPU as Linux numbers it in ``/proc/cpuinfo``, from 0.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_ad_runtime.errors import InputError

MAX_CORE = 4095
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_SYSFS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
# Whichever of them /proc/cpuinfo has: x86, then ARM boards, then what every ARM kernel says.
_MODEL_KEYS = ("model name", "Model", "Hardware", "CPU part")


def parse_cores(text: str) -> tuple[int, ...]:
    """Core numbers in the form that taskset and systemd take: ``0-1``, ``0,2``, ``0-2,6``; sorted, each once.

    Raises:
        InputError: the text is not of this form.
    """
    cores: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InputError(f"'{text}' is no list of cores; write for example 0-1 or 0,2")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first or last > MAX_CORE:
            raise InputError(f"'{text}': {part.strip()} is no range of cores from 0 to {MAX_CORE}")
        cores.update(range(first, last + 1))
    return tuple(sorted(cores))


def format_cores(cores: Iterable[int]) -> str:
    """The shortest text that :func:`parse_cores` reads back; empty for none."""
    runs: list[list[int]] = []
    for core in sorted(set(cores)):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def usable_cores() -> tuple[int, ...]:
    """The cores that the calling thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def is_restricted() -> bool:
    """Whether the calling thread may use fewer cores than the machine has."""
    return len(usable_cores()) < (os.cpu_count() or 1)


def stay_on(cores: Sequence[int]) -> tuple[int, ...]:
    """Keep the calling thread on these cores, and every thread and process that it starts from now on.

    Threads that run already stay where they are, so this comes before an engine is opened.

    Returns:
        The cores that it might run on before.

    Raises:
        InputError: the machine does not have one of them, or this process may not use it.
    """
    before = usable_cores()
    if not hasattr(os, "sched_setaffinity"):
        raise InputError("this system cannot keep a process on some of its cores; leave them out")
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{format_cores(cores)}': these cores are not here; this process has {format_cores(before)}"
        ) from error
    # Of several cores the kernel silently takes those that there are, and that a container's limits leave.
    if missing := set(cores) - set(usable_cores()):
        os.sched_setaffinity(0, before)
        raise InputError(
            f"'{format_cores(cores)}': core {format_cores(missing)} is not here; this process has {format_cores(before)}"
        )
    return before


def beside(before: Sequence[int]) -> tuple[int, ...]:
    """Of the cores that the calling thread had ``before`` those that it has no more; all of them where none is left over.
    A process that it starts there does not wait for it."""
    return tuple(sorted(set(before) - set(usable_cores()))) or tuple(before)


def cpu_model() -> str:
    """The processor's name as the kernel tells it, else its architecture."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    names = [found[key] for key in _MODEL_KEYS if found.get(key)]
    return names[0] if names else platform.machine()


def one_per_physical_core(cores: Sequence[int]) -> tuple[int, ...]:
    """Of each physical core among these the first logical one (all of them without hyper-threading)."""
    chosen: dict[str, int] = {}
    for core in sorted(cores):
        chosen.setdefault(_read(core, "topology/thread_siblings_list") or str(core), core)
    return tuple(sorted(chosen.values()))


def fastest(cores: Sequence[int]) -> tuple[int, ...]:
    """Of cores of several kinds (big.LITTLE, performance and efficiency cores) those of the fastest kind; all of them
    where they are alike or the kernel does not tell.

    ``cpu_capacity`` is what ARM kernels say of a core, relative to the machine's fastest; elsewhere its highest clock
    is taken, and those that differ by less than a fifth are alike (favoured cores clock a little higher).
    """
    speeds = [_read(core, "cpu_capacity") or _read(core, "cpufreq/cpuinfo_max_freq") for core in cores]
    numbers = [int(text) for text in speeds if text is not None and text.isdigit()]
    if len(numbers) < len(cores):
        return tuple(cores)
    return tuple(core for core, speed in zip(cores, numbers, strict=True) if speed > 0.8 * max(numbers))


def _read(core: int, name: str) -> str | None:
    try:
        return (_SYSFS / f"cpu{core}" / name).read_text().strip() or None
    except OSError:
        return None
