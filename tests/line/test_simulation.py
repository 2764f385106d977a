"""The simulated line: sound with the true core, and able to see each of its rules broken."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest
from click.testing import CliRunner

from edge_ad.cli import cli
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.line.reading import LineFileError
from edge_ad_runtime.outputs.base import Timing
from edge_ad_runtime.simulation.faults import CATCHABLE, UNAVOIDABLE, Kind, parse_kinds
from edge_ad_runtime.simulation.motion import Motion
from edge_ad_runtime.simulation.report import SimReport
from edge_ad_runtime.simulation.runner import explain_part, play, simulate
from edge_ad_runtime.simulation.scene import Scene, fitted_scene, random_scene
from edge_ad_runtime.simulation.truth import ImageTruth, LabelTruth
from edge_ad_runtime.tracking.belt import EncodedBelt
from edge_ad_runtime.tracking.picking import PickSettings
from edge_ad_runtime.tracking.tracker import Tracker, TrackSettings
from tests.conftest import bad_part, good_part

MM = 2_000_000.0  # ns, at 500 mm/s


def fixed_scene(**changes: Any) -> Scene:
    """A plain line: 500 mm/s, 400 mm from the photo-eye to the ejector, 120 mm between parts at most times."""
    track = TrackSettings(
        travel=400 * MM,
        min_gap=60 * MM,
        lead_ns=10_000_000,
        reach_ns=30_000_000,
        ahead_ns=5_000_000,
        debounce_ns=5_000_000,
        max_in_flight=20,
        steady_ns=260_000_000,
    )
    pick = PickSettings(20_000_000, 25_000_000, 10_000_000, 60_000_000)
    scene = fitted_scene(
        track, pick, Timing(pulse_ms=30, lead_ms=10), speed=500, mm_per_count=None, frame_ns=15_000_000
    )
    return msgspec.structs.replace(scene, usual=120.0, **changes)


def test_the_core_is_sound_under_random_troubles_on_random_lines() -> None:
    report = simulate(20_261_123, 3000, LabelTruth(), None, 0.1)
    assert report.sound, report.problems
    assert report.bad > 200
    assert report.good_passed > 1500
    assert sum(report.injected.values()) > 100
    assert report.parts == 3000


# Episodes whose seeds showed a fault, of the core or of the model, while they were made.
@pytest.mark.parametrize(
    ("seed", "episode", "why"),
    [
        (
            11,
            19,
            "a part close behind one that had passed already was rejected, and its pulse struck that one",
        ),
        (11, 5, "the same, with an encoder"),
        (11, 37, "the hold of a belt that had stopped struck the first part behind it"),
        (
            11,
            31,
            "the belt stood when a part's frame was exposed, which showed nothing; and triggers were lost",
        ),
        (7, 5, "a part within the debounce time of something that was no part has that one's record"),
        (7, 18, "a part before the ejector when the guard starts can no more be rejected"),
        (1, 27, "edges read in another order than they came: the lost trigger's zone began behind it"),
        (2, 24, "an ejector whose window is shorter than the belt's uncertainty misses its parts"),
        (3, 21, "the encoder has to be looked at when the belt becomes faster, not when the old speed says"),
    ],
)
def test_seeds_that_showed_a_fault(seed: int, episode: int, why: str) -> None:
    report = SimReport()
    report.add(play(seed, episode, 1000, LabelTruth(), None, 0.05), 1)
    assert report.sound, (why, report.problems)


def _nothing(*_args: object, **_keys: object) -> None:
    return None


def _no_actions(*_args: object, **_keys: object) -> list[object]:
    return []


def _deaf_to_losses(true: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, t_ns, now_ns, lost=0: true(self, t_ns, now_ns, 0)


@pytest.mark.parametrize(
    ("kind", "name", "broken"),
    [
        ("none", "begin", _nothing),
        ("trigger_loss", "blind", _nothing),
        ("stop", "belt_stopped", _no_actions),
        ("lost_trigger", "trigger", _deaf_to_losses(Tracker.trigger)),
        ("none", "_look_at_neighbours", _nothing),
        ("crash", "_spares", lambda self, part: part.verdict is not None and part.verdict.value != "reject"),
    ],
)
def test_it_sees_a_rule_of_the_tracker_broken(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str, broken: Any
) -> None:
    kinds, scene = parse_kinds(kind), fixed_scene()
    assert simulate(1, 1500, LabelTruth(), kinds, 0.2, scene).sound
    monkeypatch.setattr(Tracker, name, broken)
    report = simulate(1, 1500, LabelTruth(), kinds, 0.2, scene)
    assert not report.sound


def test_it_sees_settings_that_do_not_fit_the_physics() -> None:
    scene = fixed_scene()
    close = msgspec.structs.replace(scene.track, min_gap=scene.track.min_gap / 4)
    assert simulate(1, 1000, LabelTruth(), frozenset(), 0.2, fixed_scene(track=close)).wrong_hits
    far = msgspec.structs.replace(scene.track, travel=scene.track.travel + 150 * MM)
    assert simulate(1, 1000, LabelTruth(), frozenset(), 0.2, fixed_scene(track=far)).escapes
    # A frame that may have been exposed before its part was there shows another one, or nothing.
    early = msgspec.structs.replace(scene.pick, latency_ns=0, delay_ns=0, within_ns=50_000_000)
    narrow = fixed_scene(pick=early, view_from=20.0, view_until=40.0)
    assert simulate(1, 1000, LabelTruth(), frozenset(), 0.2, narrow).escapes


def test_it_sees_an_encoder_that_starts_again_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = frozenset({Kind.ENCODER_LOSS})
    encoded = next(e for e in range(50) if random_scene(random.Random(f"4/{e}")).mm_per_count is not None)
    world = play(4, encoded, 300, LabelTruth(), kinds, 0.1)
    assert world.injected[Kind.ENCODER_LOSS]
    assert world.tracker.counts.passed > 50
    monkeypatch.setattr(EncodedBelt, "resume", _nothing)
    assert play(4, encoded, 300, LabelTruth(), kinds, 0.1).tracker.counts.passed < world.tracker.counts.passed


@pytest.mark.parametrize("kind", sorted(UNAVOIDABLE))
def test_what_no_line_can_know_is_shown_and_never_drawn(kind: Kind) -> None:
    assert kind not in CATCHABLE
    if kind is Kind.SILENT_ENCODER:
        report = simulate(7, 3000, LabelTruth(), frozenset({kind}), 0.5)
    else:
        report = simulate(7, 2000, LabelTruth(), frozenset({kind}), 0.3, fixed_scene())
    assert report.unavoidable == [kind.value]
    assert report.injected[kind.value] > 0
    assert not report.sound
    assert report.problems


def test_every_kind_that_is_drawn_happens() -> None:
    report = simulate(2, 2500, LabelTruth(), CATCHABLE, 0.1)
    assert report.sound, report.problems
    assert set(report.injected) == {kind.value for kind in CATCHABLE}


def test_the_same_seed_gives_the_same_report() -> None:
    reports = [simulate(3, 1200, LabelTruth(), None, 0.1) for _ in range(2)]
    for report in reports:
        report.wall_s = 0.0
    assert reports[0] == reports[1]


def test_one_part_is_explained() -> None:
    kinds = frozenset({Kind.MISSED_TRIGGER})
    report = simulate(7, 1500, LabelTruth(), kinds, 0.3, fixed_scene())
    problem = report.problems[-1]
    text = explain_part(problem.part, 7, 1500, LabelTruth(), kinds, 0.3, fixed_scene())
    assert text.startswith(f"part {problem.part}: ")
    assert "it goes on" in text
    assert "at the ejector's window" in text


def test_the_belt_stops_and_runs_again() -> None:
    motion = Motion(1000.0)
    stands = motion.ramp(1e9, 0.0, 1000.0)
    assert stands == pytest.approx(2e9)
    motion.ramp(5e9, 500.0, 500.0)
    assert motion.at(0.5e9) == pytest.approx(500)
    assert motion.at(4e9) == pytest.approx(1500)
    assert motion.at(7e9) == pytest.approx(1500 + 250 + 500)
    for t in (-1e9, 0.3e9, 1.5e9, 5.5e9, 9e9):
        assert motion.time_at(motion.at(t)) == pytest.approx(t, abs=10)
    assert not motion.steady(0.5e9, 1.5e9)
    assert motion.steady(2.5e9, 4.5e9)
    with pytest.raises(ValueError, match="before the last"):
        motion.ramp(1e9, 1.0, 1.0)


def test_a_gap_without_room_for_the_pulse_is_refused() -> None:
    scene = fixed_scene()
    track = msgspec.structs.replace(scene.track, min_gap=10 * MM)
    with pytest.raises(InputError, match="min_gap is 10"):
        fitted_scene(track, scene.pick, scene.timing, speed=500, mm_per_count=None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for folder, draw in (("good", good_part), ("hole", bad_part), ("ground_truth/hole", bad_part)):
        (root / folder).mkdir(parents=True)
        for seed in range(3):
            assert cv2.imwrite(str(root / folder / f"{seed}.png"), draw(seed))
    # A defect that no model can see.
    assert cv2.imwrite(str(root / "hole" / "unseen.png"), good_part(50))
    return root


def run(*args: object) -> Any:
    return CliRunner().invoke(cli, ["simulate", *map(str, args)], catch_exceptions=False)


def test_the_command_judges_images_with_a_bundle(tiny_bundle: Path, images: Path) -> None:
    result = run(tiny_bundle, "--images", images, "--parts", 600, "--bad-share", 0.3, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["parts"] == 600
    assert report["escapes"] == report["missed_by_model"] > 10
    assert report["wrong_hits"] == report["kept"] == report["unseen_passed"] == 0
    labels = json.loads(run("--images", images, "--parts", 600, "--bad-share", 0.3, "--json").stdout)
    assert labels["escapes"] == 0
    assert labels["bad"] == report["bad"]


LINE = """
[camera]
source = "0"
fps = 60
exposure_us = 1000
latency_ms = 10

[trigger]
source = "gpio://gpiochip0/17"

[travel]
mode = "time"
ms = 800
min_gap_ms = 120
belt_mm_per_s = 500

[[output]]
url = "mock://ejector?pulse_ms=30&lead_ms=10"
"""


def test_the_command_takes_a_line_file(tmp_path: Path) -> None:
    line = tmp_path / "line.toml"
    line.write_text(LINE)
    result = run("--line", line, "--parts", 500, "--faults", "random", "--bad-share", 0.2)
    assert result.exit_code == 0, result.output
    assert "escapes       0," in result.output
    line.write_text(LINE.replace("ms = 800", "ms = 125"))
    late = json.loads(run("--line", line, "--parts", 500, "--latency-ms", 200, "--json").stdout)
    # An ejector that is reached before the model can answer: everything goes.
    assert late["faults"]["no_verdict"] > 400
    line.write_text(LINE.replace("lead_ms=10", "lead_ms=800"))
    with pytest.raises(
        LineFileError, match=r"13: travel\.ms: the ejector is reached before the model can answer"
    ):
        run("--line", line, "--parts", 500)
    assert late["escapes"] == late["good_passed"] == 0


def test_the_command_refuses_what_makes_no_sense(tiny_bundle: Path, tmp_path: Path) -> None:
    assert run("--faults", "gremlins").exit_code == 2
    assert run(tiny_bundle).exit_code == 2
    assert run("--parts", 10, "--explain", 11).exit_code == 2
    with pytest.raises(InputError, match="good"):
        ImageTruth(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        ImageTruth(tmp_path / "missing")
