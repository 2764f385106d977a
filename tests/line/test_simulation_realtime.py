"""The simulation in real time: true processes on modelled devices."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest
from click.testing import CliRunner

from edge_ad.cli import cli
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.line.config import CameraSection, LineConfig
from edge_ad_runtime.line.reading import read_line_file
from edge_ad_runtime.line.summary import LineSummary
from edge_ad_runtime.simulation.faults import Kind
from edge_ad_runtime.simulation.live import live_kinds, modelled_line, paced
from edge_ad_runtime.simulation.live_camera import BAD, EMPTY, GOOD, BeltScene, caption, shown
from edge_ad_runtime.simulation.live_plan import LivePlan
from edge_ad_runtime.simulation.live_report import LiveRun, report_of
from edge_ad_runtime.simulation.motion import Motion
from edge_ad_runtime.simulation.report import SimReport
from edge_ad_runtime.simulation.scene import Scene
from edge_ad_runtime.simulation.truth import Looks
from edge_ad_runtime.simulation.view import Article
from tests.conftest import bad_part, good_part
from tests.line.guarded import alive, wait_until
from tests.line.test_line import EDGE_AD
from tests.line.test_simulation import fixed_scene

MS = 1_000_000

LINE = """
name = "modelled"
[camera]
source = "0"
fps = 60
exposure_us = 1000
latency_ms = 10

[trigger]
source = "gpio://gpiochip0/17"

[travel]
mode = "time"
ms = 500
min_gap_ms = 90
belt_mm_per_s = 500

[[output]]
url = "serial:///dev/ttyUSB9?protocol=lcus1"
pulse_ms = 30
lead_ms = 10

[records]
sinks = ["http://plc.invalid/parts"]
"""
ENCODED = LINE.replace(
    'mode = "time"\nms = 500\nmin_gap_ms = 90',
    'mode = "distance"\nencoder = "gpio://gpiochip0/27"\nmm_per_count = 1\nmm = 250\nmin_gap_mm = 70\nclosest_mm = 50',
)


@pytest.fixture
def line_file(tmp_path: Path) -> Path:
    path = tmp_path / "line.toml"
    path.write_text(LINE)
    return path


def simulate(*args: object) -> dict[str, Any]:
    """The report of ``edge-ad simulate --realtime``."""
    done = subprocess.run(
        [*EDGE_AD, "simulate", "--realtime", "--json", *map(str, args)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    lost = report["escapes"] - report["missed_by_model"] + report["wrong_hits"]
    assert done.returncode == 1 or not lost, "what escapes makes the exit status 1"
    return report


def command(*args: object) -> Any:
    return CliRunner().invoke(cli, ["simulate", "--realtime", *map(str, args)], catch_exceptions=False)


def assert_sound(report: dict[str, Any]) -> None:
    wrong = {key: report[key] for key in ("escapes", "wrong_hits", "kept", "unseen_passed") if report[key]}
    assert not wrong, report


def processes(folder: Path) -> list[int]:
    """The processes of the simulations that keep their files in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_the_true_processes_reject_the_bad_parts_and_no_others(line_file: Path) -> None:
    report = simulate(
        *(
            "--line",
            line_file,
            "--parts",
            30,
            "--rate",
            9,
            "--bad-share",
            0.3,
            "--latency-ms",
            10,
            "--seed",
            7,
        )
    )
    assert_sound(report)
    assert report["parts"] == 30
    assert 5 <= report["bad"] <= 15
    # A busy machine may lose a frame or a verdict, but not many.
    assert report["fault_rejects"] <= 5, report["faults"]
    assert report["good_passed"] + report["good_rejected"] == 30 - report["bad"]
    live = report["live"]
    assert live["pulses"] >= report["bad"] - 2
    assert live["absent"] == 0
    assert 0 <= live["p50_ms"] <= live["p99_ms"] <= live["worst_ms"]
    assert live["p50_ms"] < 10
    assert not live["stopped"]
    assert live["crashes"] == live["guard_restarts"] == live["lost_records"] == 0


def test_a_scorer_that_is_killed_lets_nothing_through_and_the_next_one_goes_on(line_file: Path) -> None:
    report = simulate(
        *(
            "--line",
            line_file,
            "--parts",
            40,
            "--rate",
            8,
            "--bad-share",
            0.3,
            "--latency-ms",
            10,
            "--seed",
            2,
        ),
        *("--faults", "crash"),
    )
    assert_sound(report)
    assert report["live"]["crashes"] == report["injected"]["crash"] >= 1
    # The next scorer, if it is there in time, has no frame of what came while there was none.
    kinds = ("scorer_lost", "camera_lost", "no_verdict", "no_frame")
    assert sum(report["faults"].get(kind, 0) for kind in kinds) >= 1, report["faults"]
    assert report["live"]["guard_restarts"] == 0
    # Before it, and after it.
    assert report["good_passed"] >= 5


@pytest.mark.study
def test_an_encoder_a_stall_and_a_camera_that_goes_away(line_file: Path) -> None:
    line_file.write_text(ENCODED)
    report = simulate(
        *(
            "--line",
            line_file,
            "--parts",
            30,
            "--rate",
            8,
            "--bad-share",
            0.3,
            "--latency-ms",
            10,
            "--seed",
            7,
        ),
        *("--faults", "stall,camera_loss,speed,bounce"),
    )
    assert_sound(report)
    assert report["parts"] == 30
    assert {"stall", "camera_loss", "speed", "bounce"} <= set(report["injected"])
    assert report["bounces"] >= report["injected"]["bounce"]
    assert report["fault_rejects"] >= 1


def test_an_ejector_that_is_slower_than_the_line_believes_lets_parts_escape(line_file: Path) -> None:
    report = simulate(
        *("--line", line_file, "--parts", 12, "--rate", 10, "--bad-share", 0.5, "--latency-ms", 10),
        *("--ejector-lead-ms", 350),
    )
    assert report["escapes"] >= 1
    assert report["missed_by_model"] == 0
    assert report["kept"] >= 1
    assert any(problem["what"].startswith("escaped") for problem in report["problems"])


@pytest.mark.study
def test_the_model_judges_what_the_camera_shows(line_file: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for folder, draw in (("good", good_part), ("hole", bad_part)):
        (images / folder).mkdir(parents=True)
        for seed in range(3):
            image = cv2.cvtColor(draw(seed), cv2.COLOR_RGB2BGR)
            assert cv2.imwrite(str(images / folder / f"{seed}.png"), image)
    # A defect that no model can see.
    assert cv2.imwrite(str(images / "hole" / "unseen.png"), cv2.cvtColor(good_part(50), cv2.COLOR_RGB2BGR))
    report = simulate(
        *(
            tiny_bundle,
            "--images",
            images,
            "--line",
            line_file,
            "--parts",
            24,
            "--rate",
            6,
            "--bad-share",
            0.6,
        )
    )
    assert report["escapes"] == report["missed_by_model"] >= 1
    assert report["wrong_hits"] == report["kept"] == report["unseen_passed"] == 0
    assert report["pulses"] >= 5


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files, with a name that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


def test_ctrl_c_ends_it_with_the_report_so_far_and_leaves_no_process(
    line_file: Path, temporary: Path
) -> None:
    folder = temporary
    process = subprocess.Popen(
        [*EDGE_AD, "simulate", "--realtime", "--json", "--line", str(line_file), "--parts", "2000"],
        env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: list(folder.glob("edge-ad-*/start")))
        time.sleep(2.5)
        running = processes(folder)
        assert len(running) == 2, "the scorer and the guard"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["live"]["stopped"]
    assert 1 <= report["parts"] < 100
    assert_sound(report)
    assert not any(alive(pid) for pid in running)
    assert not list(folder.iterdir())


def test_ctrl_c_before_the_belt_runs_leaves_no_process(line_file: Path, temporary: Path) -> None:
    process = subprocess.Popen(
        [*EDGE_AD, "simulate", "--realtime", "--json", "--line", str(line_file)],
        env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: processes(temporary))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert json.loads(out)["parts"] == 0
    assert not processes(temporary)
    assert not list(temporary.iterdir())


def test_a_simulation_that_is_killed_takes_its_processes_with_it(line_file: Path, temporary: Path) -> None:
    folder = temporary
    process = subprocess.Popen(
        [*EDGE_AD, "simulate", "--realtime", "--line", str(line_file), "--parts", "2000"],
        env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: list(folder.glob("edge-ad-*/start")))
        running = processes(folder)
    finally:
        process.kill()
        process.wait()
    assert len(running) == 2
    wait_until(lambda: not any(alive(pid) for pid in running))


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (None, ["--rate", "90"], "the line is made for at most"),
        (None, ["--faults", "stop"], "could not know that the belt stands"),
        (("gpio://gpiochip0/17", "motion"), [], "cannot be simulated in real time"),
        (('[trigger]\nsource = "gpio://gpiochip0/17"', ""), [], "only lines with .trigger."),
    ],
)
def test_what_cannot_be_simulated_so_is_refused(
    line_file: Path, change: tuple[str, str] | None, options: list[str], said: str
) -> None:
    if change is not None:
        line_file.write_text(
            LINE.replace(*change).replace("min_gap_ms = 90\n", "" if change[1] == "" else "min_gap_ms = 90\n")
        )
    with pytest.raises(InputError, match=said):
        command("--line", line_file, "--parts", 5, *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--realtime"], "--realtime needs --line"),
        (["--realtime", "--line", "LINE", "--explain", "3"], "--explain is for virtual time"),
        (["--line", "LINE", "--rate", "3"], "--rate needs --realtime"),
        (["--ejector-lead-ms", "3"], "--ejector-lead-ms needs --realtime"),
    ],
)
def test_options_that_do_not_go_together_are_refused(line_file: Path, options: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["simulate", *(str(line_file) if o == "LINE" else o for o in options)])
    assert done.exit_code == 2
    assert said in done.output


def test_no_device_of_the_line_is_touched_and_its_timing_is_kept(line_file: Path, tmp_path: Path) -> None:
    line_file.write_text(
        LINE + '[[output]]\nurl = "gpio://gpiochip0/4?pulse_ms=70&energise=accept&safe=on"\n'
    )
    line = read_line_file(line_file).config
    modelled = modelled_line(line, tmp_path)
    assert [o.timing for o in modelled.outputs] == [o.timing for o in line.outputs]
    urls = [*(o.url for o in modelled.outputs), modelled.trigger.source if modelled.trigger else ""]
    assert all(url.startswith("mock://") for url in urls)
    assert modelled.records.sinks == ()
    assert modelled.travel == line.travel
    encoded = tmp_path / "encoded.toml"
    encoded.write_text(ENCODED)
    travel = modelled_line(read_line_file(encoded).config, tmp_path).travel
    assert travel is not None
    assert (travel.encoder or "").startswith("mock://encoder?feed=")
    assert msgspec.json.decode(msgspec.json.encode(modelled), type=LineConfig) == modelled


@pytest.mark.parametrize("seed", range(30))
def test_a_belt_that_cannot_say_that_it_stands_is_not_stopped_by_chance(line_file: Path, seed: int) -> None:
    line = read_line_file(line_file).config
    assert not live_kinds(None, line, random.Random(seed)) & {Kind.STOP, Kind.SPEED, Kind.ENCODER_LOSS}


def test_parts_come_at_the_rate_that_is_asked_for() -> None:
    scene = fixed_scene()
    assert paced(scene, 2.0).usual * 1.1 == pytest.approx(scene.speed / 2)
    with pytest.raises(InputError, match="made for at most"):
        paced(scene, 1000.0)


ARTICLES = tuple(
    Article(100.0 + 150 * i, 20.0, Looks(bad, bad, f"{'bad' if bad else 'good'}/{i}"))
    for i, bad in enumerate([False, True, False, True])
)


def test_the_camera_shows_what_is_before_it() -> None:
    scene = fixed_scene()
    plan = LivePlan(
        line=LineConfig(camera=CameraSection(source="0")),
        scene=scene, articles=ARTICLES, stretches=Motion(scene.speed).stretches, kinds=frozenset(), away=(), seed=1,
        parent=0,
    )  # fmt: skip
    plan = msgspec.json.decode(msgspec.json.encode(plan), type=LivePlan)
    belt = BeltScene(plan)
    middle = (scene.view_from + scene.view_until) / 2
    for i, article in enumerate(ARTICLES):
        t_ns = round((article.middle + middle) / scene.speed * 1e9)
        image, source = belt.at(t_ns)
        assert source == caption(i, article.looks.name)
        assert shown(source) == article.looks.name
        assert image.mean() == (BAD if article.looks.bad else GOOD)
    image, source = belt.at(-1)
    assert (image.mean(), shown(source)) == (EMPTY, None)


class Recorded:
    """A run of four parts, the second and the last one bad, as its logs would tell it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "output.jsonl"
        self.scene = fixed_scene()
        self.motion = Motion(self.scene.speed)
        self.start_ns = 1_000 * MS
        self.times = [round(self.motion.time_at(a.place)) for a in ARTICLES]
        self.edges: list[tuple[int, int | None]] = [(t, i) for i, t in enumerate(self.times)]
        self.events = [self.event(i + 1, t, ARTICLES[i].looks.bad) for i, t in enumerate(self.times)]
        self.pulses = [self.on(i) for i in (1, 3)]
        self.triggers = 4

    def event(self, part: int, t: int, bad: bool) -> PartEvent:
        return PartEvent(
            part=part, source="x", score=None, threshold=0.5, verdict="reject" if bad else "pass", latency_ms=30.0,
            t_monotonic_ns=self.start_ns + t, time="", ejected=bad,
        )  # fmt: skip

    def on(self, index: int) -> int:
        return self.times[index] + round(self.scene.track.travel) - self.scene.timing.lead_ns

    def report(self, **changes: Any) -> SimReport:
        scene: Scene = changes.pop("scene", self.scene)
        commands = [(0, False)]
        for t in self.pulses:
            commands += [(t, True), (t + scene.timing.pulse_ns, False)]
        self.log.write_text(
            "".join(
                json.dumps({"t_monotonic_ns": self.start_ns + t, "active": scene.timing.drives(on)}) + "\n"
                for t, on in commands
            )
        )
        summary = LineSummary(
            parts=4, passed=2, rejected=2, faults=0, faults_by_kind={}, triggers=self.triggers, bounces=0,
            lost_triggers=0, late_verdicts=0, dropped_frames=0, reconnects=0, late_pulses=0, missed_pulses=0,
            scorer_losses=0, guard_restarts=0, lost_events=0, latency_ms_p50=1.0, latency_ms_p99=1.0, seconds=1.0,
            ended="stop", outputs=(),
        )  # fmt: skip
        values: dict[str, Any] = {
            "scene": scene, "articles": ARTICLES, "motion": self.motion, "start_ns": self.start_ns,
            "end_ns": 5_000 * MS, "stopped": False, "edges": self.edges, "dead": (), "output_log": self.log,
            "events": self.events, "summary": summary, "injected": Counter(), "crashes": 0, "belt_late_ns": 0,
            "ejector_lead_ns": scene.timing.lead_ns, "seed": 1,
        }  # fmt: skip
        return report_of(LiveRun(**(values | changes)), SimReport())


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


@pytest.mark.parametrize("energise", ["reject", "accept"])
def test_commands_at_their_times_make_a_sound_report(recorded: Recorded, energise: Any) -> None:
    timing = msgspec.structs.replace(recorded.scene.timing, energise=energise)
    report = recorded.report(scene=msgspec.structs.replace(recorded.scene, timing=timing))
    assert report.sound, report.problems
    assert (report.parts, report.bad, report.good_passed, report.unseen) == (4, 2, 2, 0)
    assert report.live is not None
    assert (report.live.pulses, report.live.absent, report.live.worst_ms) == (2, 0, 0.0)
    travel_ms = recorded.scene.track.travel / 1e6
    assert report.worst_margin_ms == pytest.approx(travel_ms - 10 - 5 - 30)


def test_a_pulse_that_did_not_come_is_an_escape(recorded: Recorded) -> None:
    del recorded.pulses[1]
    report = recorded.report()
    assert (report.escapes, report.kept, report.wrong_hits) == (1, 1, 0)
    assert report.live is not None
    assert (report.live.pulses, report.live.absent) == (1, 1)


def test_a_pulse_for_a_part_that_goes_on_is_a_wrong_hit(recorded: Recorded) -> None:
    recorded.pulses.insert(1, recorded.on(2))
    report = recorded.report()
    assert (report.escapes, report.kept, report.wrong_hits) == (0, 0, 1)


def test_an_ejector_that_is_dead_removes_nothing(recorded: Recorded) -> None:
    assert recorded.report(dead=((0, 5_000 * MS),)).escapes == 2


def test_a_late_pulse_is_measured(recorded: Recorded) -> None:
    recorded.pulses[0] += 4 * MS
    live = recorded.report().live
    assert live is not None
    assert live.worst_ms == pytest.approx(4.0)


def test_a_defect_that_the_model_passes_is_told_apart(recorded: Recorded) -> None:
    del recorded.pulses[1]
    last = msgspec.structs.replace(
        recorded.events[3],
        score=0.1,
        verdict="pass",
        ejected=False,
        source=caption(3, ARTICLES[3].looks.name),
    )
    recorded.events[3] = last
    report = recorded.report()
    assert (report.escapes, report.missed_by_model) == (1, 1)
    assert report.sound


def test_a_record_that_died_with_its_scorer_is_not_a_part_that_nobody_saw(recorded: Recorded) -> None:
    del recorded.events[2]
    report = recorded.report()
    assert report.live is not None
    assert (report.live.lost_records, report.unseen) == (1, 0)
    assert report.sound
    # The guard never made a part of it: the next one has its number.
    recorded.events[2] = msgspec.structs.replace(recorded.events[2], part=3)
    recorded.triggers = 3
    report = recorded.report()
    assert report.live is not None
    assert (report.live.lost_records, report.unseen, report.unseen_passed) == (0, 1, 1)
    assert not report.sound


def test_bounces_and_what_was_nothing_are_told_apart_from_parts(recorded: Recorded) -> None:
    t = recorded.times[1]
    recorded.edges.insert(2, (t + MS, 1))
    recorded.edges.append((recorded.times[3] + 60 * MS, None))
    recorded.events.append(recorded.event(5, recorded.times[3] + 60 * MS, False))
    recorded.triggers = 5
    report = recorded.report()
    assert report.sound, report.problems
    assert (report.ghosts, report.unseen) == (1, 0)


def test_a_run_that_was_stopped_judges_only_what_has_passed(recorded: Recorded) -> None:
    end_ns = recorded.on(2) - 20 * MS
    report = recorded.report(stopped=True, end_ns=end_ns)
    assert 1 <= report.parts < 3
    assert report.sound
