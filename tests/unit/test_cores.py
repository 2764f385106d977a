"""The processor's cores: texts, keeping a process on some of them, and what the kernel tells of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad_runtime import cores
from edge_ad_runtime.cores import (
    beside,
    cpu_model,
    fastest,
    format_cores,
    one_per_physical_core,
    parse_cores,
    stay_on,
    usable_cores,
)
from edge_ad_runtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "numbers", "shortest"),
    [
        ("0", (0,), "0"),
        ("0-1", (0, 1), "0-1"),
        ("3, 0-1", (0, 1, 3), "0-1,3"),
        ("2,1,0,1", (0, 1, 2), "0-2"),
        ("4095", (4095,), "4095"),
    ],
)
def test_texts_of_cores(text: str, numbers: tuple[int, ...], shortest: str) -> None:
    assert parse_cores(text) == numbers
    assert format_cores(numbers) == shortest
    assert parse_cores(shortest) == numbers


@pytest.mark.parametrize("text", ["", "-1", "1-", "1-0", "a", "0;1", "0,,1", "4096", "0-99999", "0x1", "²"])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=f"'{text}'"):
        parse_cores(text)


def in_a_thread_of_its_own(work: Callable[[], None]) -> None:
    """Affinity belongs to the thread, so this one's ends with it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_a_thread_stays_and_so_do_those_that_it_starts() -> None:
    everywhere = usable_cores()
    last = everywhere[-1]

    def work() -> None:
        assert stay_on((last,)) == everywhere
        assert usable_cores() == (last,)
        inherited: list[tuple[int, ...]] = []
        child = threading.Thread(target=lambda: inherited.append(usable_cores()))
        child.start()
        child.join()
        assert inherited == [(last,)]
        command = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [
            str(last)
        ]
        rest = tuple(core for core in everywhere if core != last)
        assert beside(everywhere) == (rest or everywhere)

    in_a_thread_of_its_own(work)
    assert usable_cores() == everywhere
    assert beside(everywhere) == everywhere


def test_cores_that_are_not_here_are_refused_and_nothing_changes() -> None:
    before = usable_cores()

    def work() -> None:
        for absent in ((4000,), (before[0], 4000)):
            with pytest.raises(InputError, match=r"4000.* (is|are) not here"):
                stay_on(absent)
            assert usable_cores() == before
        with pytest.raises(InputError):
            stay_on(())

    in_a_thread_of_its_own(work)


def write(root: Path, core: int, **files: str) -> None:
    for name, text in files.items():
        path = root / f"cpu{core}" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_the_kernel_s_word_on_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_SYSFS", tmp_path)
    # Nothing is told: all are alike.
    assert one_per_physical_core((0, 1)) == fastest((0, 1)) == (0, 1)
    # Two performance cores with two threads each, then two efficiency cores.
    for core, siblings, clock in (
        (0, "0-1", "5000000"), (1, "0-1", "5000000"), (2, "2-3", "5200000"), (3, "2-3", "5200000"),
        (4, "4", "3800000"), (5, "5", "3800000"),
    ):  # fmt: skip
        write(tmp_path, core, topology__thread_siblings_list=siblings, cpufreq__cpuinfo_max_freq=clock)
    assert one_per_physical_core(range(6)) == (0, 2, 4, 5)
    assert fastest(range(6)) == (0, 1, 2, 3)
    assert fastest((4, 5)) == (4, 5)
    # big.LITTLE: the capacity counts, not the clock.
    for core in range(6):
        write(tmp_path, core, cpu_capacity="1024" if core >= 4 else "400")
    assert fastest(range(6)) == (4, 5)
    # One core that does not say: nothing is known.
    (tmp_path / "cpu2" / "cpu_capacity").unlink()
    (tmp_path / "cpu2" / "cpufreq" / "cpuinfo_max_freq").unlink()
    assert fastest(range(6)) == tuple(range(6))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("processor\t: 0\nCPU part\t: 0xd0b\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n", "Raspberry Pi 5 Model B Rev 1.0"),
        ("processor\t: 0\nCPU part\t: 0xd42\n", "0xd42"),
        ("", os.uname().machine),
    ],
)  # fmt: skip
def test_the_processor_has_a_name(
    text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    monkeypatch.setattr(cores, "_CPUINFO", file)
    assert cpu_model() == name
    monkeypatch.setattr(cores, "_CPUINFO", tmp_path / "none")
    assert cpu_model() == os.uname().machine
