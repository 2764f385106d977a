"""Parts counted by the camera, on belts made of real photographs: who is in view, and when it crossed the line."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from edge_ad_runtime.cameras.motion import MotionSettings, MotionTrigger
from edge_ad_runtime.errors import InputError
from tests.line.belts import DATA, FPS, HEIGHT, WIDTH, Belt, Image, Part, place, ways

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")

LEARN = 2 * FPS + 2
LINE = 0.5


def run(
    parts: list[Part],
    speeds: list[float],
    *,
    settings: MotionSettings | None = None,
    light: list[float] | None = None,
    noise: float = 2.0,
    belt: Belt | None = None,
) -> tuple[list[float], list[float]]:
    """The frames at which parts crossed the line by the trigger, and in truth, both with fractions. The belt stands
    empty at first, while it is learned."""
    belt = belt or Belt(parts)
    trigger = MotionTrigger(settings or MotionSettings(line=LINE))
    way = ways([0.0] * LEARN + speeds)
    light = None if light is None else [1.0] * LEARN + light
    found: list[float] = []
    for i, view in enumerate(belt.views(way, light, noise)):
        found += [t / 1e9 * FPS for t in trigger.frame(view, round(i * 1e9 / FPS))]
    assert trigger.ready
    true = []
    for part in parts:
        after = next((i for i, w in enumerate(way) if w - part.at >= LINE * WIDTH), None)
        if after is not None:
            step = way[after] - way[after - 1]
            true.append(after - (way[after] - part.at - LINE * WIDTH) / step)
    return found, true


def enough(parts: list[Part], speed: float) -> list[float]:
    """Steady speeds until all parts are out of view."""
    return [speed] * round((parts[-1].at + parts[-1].length + 20) / speed)


def check(name: str, found: list[float], true: list[float], within_frames: float = 1.0) -> None:
    print(f"{name}: {len(found)} of {len(true)} parts", end="")
    if len(found) == len(true) and found:
        off = np.abs(np.subtract(found, true))
        print(f", crossing off by {off.mean():.2f} frames in the mean, {off.max():.2f} at worst", end="")
    print()
    assert len(found) == len(true), [round(f - t, 1) for f, t in zip(found, true, strict=False)]
    np.testing.assert_allclose(found, true, atol=within_frames)


SIZES = [40, 60, 90, 30, 120, 50, 75, 200, 35, 60, 45, 150]
GAPS = [30, 60, 25, 100, 40, 20, 300, 35, 28, 60, 45, 0]


@pytest.mark.parametrize("speed", [3.0, 13.0, 25.0])
def test_parts_of_several_sizes_and_gaps_each_once(speed: float) -> None:
    parts = place(SIZES, GAPS)
    check(f"{speed:g} columns a frame", *run(parts, enough(parts, speed)))


def test_many_equal_parts_at_equal_distances() -> None:
    parts = place([40] * 40, [24] * 40)
    check("equal parts", *run(parts, enough(parts, 9.0)))


def test_speed_changes_and_stops() -> None:
    parts = place(SIZES * 2, [max(g, 20) for g in GAPS] * 2)
    speeds: list[float] = []
    way, rng = 0.0, np.random.default_rng(3)
    while way < parts[-1].at + parts[-1].length + 20:
        target = float(rng.choice([0.0, 3.0, 8.0, 14.0]))
        now = speeds[-1] if speeds else 0.0
        # A belt takes a third of a second to another speed.
        speeds += [now + (target - now) * k / 10 for k in range(1, 11)] + [target] * int(rng.integers(5, 60))
        way = sum(speeds)
    check("speed changes and stops", *run(parts, speeds))


def test_a_long_stop_with_parts_in_view() -> None:
    parts = place([60] * 6, [40] * 6)
    speeds = [8.0] * 35 + [0.0] * (20 * FPS) + enough(parts, 8.0)
    check("stopped for 20 s", *run(parts, speeds))


def test_light_that_flickers_and_steps() -> None:
    parts = place(SIZES, GAPS)
    speeds = enough(parts, 7.0)
    flicker = [1 + 0.12 * float(np.sin(i * 2.1)) for i in range(len(speeds))]
    check("flicker of 12 %", *run(parts, speeds, light=flicker))
    step = [1.0 if i < len(speeds) // 2 else 0.7 for i in range(len(speeds))]
    check("light down to 70 % at once", *run(parts, speeds, light=step))
    drift = [1.0 + 0.5 * i / len(speeds) for i in range(len(speeds))]
    check("light up by half, slowly", *run(parts, speeds, light=drift))


def test_a_noisy_camera_and_an_empty_belt() -> None:
    parts = place(SIZES, GAPS)
    check("noise of 8 grey levels", *run(parts, enough(parts, 7.0), noise=8.0))
    far = [Part(8000, 50)]
    check("empty belt", *run(far, [7.0] * 400, noise=4.0))


def test_a_part_longer_than_the_view() -> None:
    parts = place([700, 50, 900, 60], [40, 60, 40, 30])
    check("longer than the view", *run(parts, enough(parts, 9.0)))


def test_the_belt_is_learned_while_parts_pass() -> None:
    """Parts that go by meanwhile are not told of, those after are."""
    parts = place([50] * 30, [90] * 30, first=0)
    belt, way = Belt(parts), ways([8.0] * 400)
    trigger = MotionTrigger(MotionSettings(line=LINE))
    found, ready = 0, None
    for i, view in enumerate(belt.views(way)):
        found += len(trigger.frame(view, round(i * 1e9 / FPS)))
        if trigger.ready and ready is None:
            ready = i
    assert ready is not None
    true = sum(way[ready] < p.at + LINE * WIDTH <= way[-1] for p in parts)
    print(f"learned with parts on 36 % of the belt: {found} of {true} parts")
    assert found == true > 10


def test_what_stood_in_view_while_it_was_learned_is_forgotten_when_parts_move() -> None:
    parts = place([60] * 16, [200] * 16, first=WIDTH - 150)
    found, true = run(parts, enough(parts, 8.0))
    # The first seconds may go wrong; once what stood there is forgotten, every part is seen at its time.
    settled = LEARN + 10 * FPS
    late, right = [f for f in found if f > settled], [t for t in true if t > settled]
    print(f"started with a part in view: {len(found)} of {len(true)} parts in all")
    check("after ten seconds", late, right)
    assert len(right) >= 5


@pytest.mark.parametrize("direction", ["right", "left", "down", "up"])
def test_directions_and_lanes(direction: str) -> None:
    parts = place([50, 80, 40], [60, 40, 60])
    belt = Belt(parts)
    settings = MotionSettings(direction=direction, line=LINE, lane=(0.1, 0.9))  # type: ignore[arg-type]
    trigger = MotionTrigger(settings)
    found = 0
    for i, view in enumerate(belt.views(ways([0.0] * LEARN + enough(parts, 8.0)))):
        if direction in ("left", "up"):
            view = np.ascontiguousarray(view[:, ::-1])
        if direction in ("down", "up"):
            view = np.ascontiguousarray(view.transpose(1, 0, 2))
        found += len(trigger.frame(view, round(i * 1e9 / FPS)))
    assert found == 3


def test_what_is_outside_of_the_lane_and_what_is_too_small_is_no_part() -> None:
    parts = place([50, 80, 40], [60, 40, 60])
    lane = MotionSettings(line=LINE, lane=(0.0, 0.1))
    assert run(parts, enough(parts, 8.0), settings=lane)[0] == []
    large = MotionSettings(line=LINE, min_area=0.13)
    found, true = run(parts, enough(parts, 8.0), settings=large)
    assert len(found) == 1
    # It is known only once enough of it is in view.
    assert true[1] <= found[0] + 0.5 <= true[1] + 10


def test_parts_closer_than_the_gap_are_one_as_for_a_photo_eye() -> None:
    parts = place([50, 50, 50], [6, 60, 60])
    found, _ = run(parts, enough(parts, 7.0), settings=MotionSettings(line=LINE, min_gap=0.05))
    assert len(found) == 2


def test_the_limits_are_known() -> None:
    """Fast belts and parts that hardly differ from the belt: reported, bounded, not pretended away."""
    parts = place([60] * 20, [160] * 20)
    for speed in (50.0, 100.0, 200.0):
        found, true = run(parts, enough(parts, speed))
        print(f"{speed / WIDTH:.0%} of the view a frame: {len(found)} of {len(true)} parts")
        assert abs(len(found) - len(true)) <= (0 if speed < 150 else 2)
    parts = place(SIZES, GAPS)
    found, true = run(parts, enough(parts, 7.0), belt=Belt(parts, brightness=70))
    print(f"dark parts on a dark belt: {len(found)} of {len(true)} parts")
    assert len(true) <= len(found) <= 2 * len(true), "pieces are taken for parts, but no part is missed"


def test_camera_stalls_and_another_size() -> None:
    parts = place([60] * 10, [100] * 10)
    trigger = MotionTrigger(MotionSettings(line=LINE))
    belt, way = Belt(parts), ways([0.0] * LEARN + enough(parts, 8.0))
    found = 0
    for i, view in enumerate(belt.views(way)):
        if LEARN + 40 < i < LEARN + 46:
            continue  # frames that were lost
        found += len(trigger.frame(view, round(i * 1e9 / FPS)))
    assert found == 10
    assert trigger.ready
    assert trigger.frame(np.zeros((50, 50, 3), np.uint8), 10**12) == []
    assert not trigger.ready


def test_what_a_frame_costs() -> None:
    rng = np.random.default_rng(1)
    frames: list[Image] = [rng.integers(0, 80, (720, 1280, 3), np.uint8) for _ in range(2)]
    trigger = MotionTrigger(MotionSettings())
    for i in range(90):
        trigger.frame(frames[i % 2], round(i * 1e9 / FPS))
    assert trigger.ready
    with_part = frames[0].copy()
    cv2.rectangle(with_part, (300, 200), (600, 500), (200, 200, 200), -1)
    started = time.thread_time()
    for i in range(90, 120):
        trigger.frame(with_part, round(i * 1e9 / FPS))
    cost_ms = (time.thread_time() - started) / 30 * 1e3
    print(f"1280x720: {cost_ms:.1f} ms a frame")
    assert cost_ms < 25


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"line": 1.0}, "line 1 must be between 0 and 1"),
        ({"lane": (0.6, 0.4)}, "lane"),
        ({"min_area": 0.0}, "min_area 0 must be 0.0001 to 0.5"),
        ({"contrast": 300.0}, "contrast"),
        ({"learn_s": float("nan")}, "learn_s"),
    ],
)
def test_settings_are_checked(change: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        MotionSettings(**change)  # type: ignore[arg-type]
    assert HEIGHT < WIDTH
