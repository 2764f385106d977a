"""Several lines on one machine: cores of their own, guards beside them, and what a check tells of lines together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_ad.cli import cli
from edge_ad_runtime.cores import usable_cores
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.guard.link import ProcessGuard
from edge_ad_runtime.line.config import LineConfig, ScorerSection, from_options
from edge_ad_runtime.line.section import Problem
from edge_ad_runtime.line.together import check_together
from tests.line.guarded import GuardedLine, wait_until

CORES = usable_cores()


def line(name: str, cpus: str | None = None) -> LineConfig:
    plain = from_options("mock:.", name=name)
    return LineConfig(name=plain.name, camera=plain.camera, scorer=ScorerSection(cpus=cpus))


def told(*lines: LineConfig, cores: tuple[int, ...] = (0, 1, 2, 3)) -> list[list[Problem]]:
    return check_together(lines, cores)


def test_lines_with_cores_of_their_own_are_no_trouble() -> None:
    assert told(line("a", "0-1"), line("b", "2,3")) == [[], []]
    assert told(line("a")) == [[]]


def test_cores_that_two_lines_claim_are_told_with_a_remedy() -> None:
    (first,), (second,), third = told(line("a", "0-2"), line("b", "2-3"), line("c", "4"))
    assert (first.key, first.level) == ("scorer.cpus", "warning")
    assert '"b" may take, too (2)' in first.text
    assert '"a" may take, too (2)' in second.text
    assert third == []
    (first,), (second,) = told(line("a"), line("b"))
    assert "takes all cores" in first.text
    assert 'cpus = "0-1" here' in first.text
    assert 'cpus = "2-3" here' in second.text
    (first,), _, _ = told(line("a"), line("b"), line("c"), cores=(0, 1))
    assert '"b" and "c"' in first.text
    assert "2 cores for 3 lines" in first.text


def test_two_lines_of_one_name_cannot_run() -> None:
    for problems in told(line("a", "0"), line("a", "1")):
        (problem,) = problems
        assert (problem.key, problem.level) == ("name", "error")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"cpus": "1-0"}, "scorer.cpus"),
        ({"cpus": "x"}, "scorer.cpus"),
        ({"cpus": ""}, "scorer.cpus"),
        ({"cpus": "0", "threads": 2}, "scorer.threads"),
    ],
)
def test_cores_in_a_line_file_are_checked(values: dict[str, object], key: str) -> None:
    with pytest.raises(InputError, match=key):
        ScorerSection(**values)  # type: ignore[arg-type]
    assert ScorerSection(cpus="0-1", threads=2).threads == 2


def write_line(folder: Path, name: str, scorer: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\n[camera]\nsource = "mock:{folder}"\n[scorer]\n{scorer}\n')
    return path


def test_the_check_takes_several_files(tmp_path: Path) -> None:
    paths = [str(write_line(tmp_path, name)) for name in ("left", "right")]
    result = CliRunner().invoke(cli, ["line", "check", *paths, "--no-devices", "--json"])
    assert result.exit_code == 0, result.output
    answers = [json.loads(text) for text in result.stdout.splitlines()]
    assert [a["file"] for a in answers] == paths
    for answer in answers:
        (found,) = [p for p in answer["problems"] if p["key"] == "scorer.cpus"]
        assert (found["level"], found["line"]) == ("warning", 4)
    text = CliRunner().invoke(cli, ["line", "check", *paths, "--no-devices"]).output
    assert f"{paths[0]}:4: warning: scorer.cpus: takes all cores" in text
    alone = CliRunner().invoke(cli, ["line", "check", paths[0], "--no-devices", "--json"])
    assert "scorer.cpus" not in alone.output
    same = CliRunner().invoke(cli, ["line", "check", paths[0], paths[0], "--no-devices"])
    assert same.exit_code == 1
    assert "needs a name of its own" in same.output
    drawing = CliRunner().invoke(cli, ["line", "check", *paths, "--svg", str(tmp_path / "x.svg")])
    assert drawing.exit_code == 2


def test_a_guard_runs_on_the_cores_that_it_is_given(tmp_path: Path) -> None:
    guarded = GuardedLine(tmp_path)
    try:
        guarded.links.append(ProcessGuard(guarded.config(), guarded.state, CORES[-1:]))
        assert os.sched_getaffinity(guarded.guard()) == {CORES[-1]}
    finally:
        guarded.close()


def test_a_guard_on_cores_that_are_gone_guards_nevertheless(tmp_path: Path) -> None:
    guarded = GuardedLine(tmp_path)
    try:
        guarded.links.append(ProcessGuard(guarded.config(), guarded.state, (4000,)))
        assert os.sched_getaffinity(guarded.guard()) == set(CORES)
    finally:
        guarded.close()


@pytest.mark.skipif(len(CORES) < 2, reason="one core leaves nothing beside it")
def test_a_line_stays_on_its_cores_and_its_guard_beside_them(tiny_bundle: Path, tmp_path: Path) -> None:
    """The whole command; the camera is a folder that goes on for ever."""
    path = tmp_path / "line.toml"
    path.write_text(
        f'name = "line"\n[camera]\nsource = "mock:{tmp_path}/images?loop=1"\n'
        f'[[output]]\nurl = "mock://x?log={tmp_path}/out.jsonl"\n[scorer]\ncpus = "{CORES[0]}"\n'
    )
    from tests.evaluation.conftest import save, spot_part

    save(tmp_path / "images" / "a.png", spot_part(0))
    guarded = GuardedLine(tmp_path)
    process = subprocess.Popen(
        [
            sys.executable, "-c", "from edge_ad.cli import main; main()", "run", str(tiny_bundle),
            "--line", str(path), "--state", str(guarded.state),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        lock = guarded.state / "lines" / "line" / "guard.lock"
        wait_until(lambda: (lock.exists() and lock.read_text()) or process.poll() is not None, 60)
        if process.poll() is not None:
            pytest.fail(process.stderr.read() if process.stderr else "")
        assert os.sched_getaffinity(process.pid) == {CORES[0]}
        wait_until(lambda: os.sched_getaffinity(guarded.guard()) == set(CORES[1:]))
    finally:
        process.terminate()
        process.communicate(timeout=60)
        guarded.close()
