"""What is simulated: a line's settings and the physics around it, drawn at random or made to fit a line file."""

from __future__ import annotations

import math
import random

import msgspec

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.outputs.base import Timing
from edge_ad_runtime.tracking.picking import PickSettings
from edge_ad_runtime.tracking.tracker import TrackSettings

# Latencies of the machine that is modelled, each the longest, in ns: a photo-eye's reaction, a turn of the guard's loop, a
# thread's wake-up and a relay's command, what an ejector's own reaction varies by.
EYE_NS = 300_000
TURN_NS = 2_000_000
COMMAND_NS = 2_000_000
EJECTOR_NS = 500_000
BELT_SIGNAL_NS = 4_000_000
AHEAD_NS = 5_000_000


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One line. Lengths in mm from the photo-eye, speeds in mm/s; what ends in ``_ns`` is in nanoseconds.

    While the ejector acts it removes every part that overlaps its window, ``window_from`` to ``window_until``. The camera
    shows the parts whose middle is between ``view_from`` and ``view_until`` when a frame is exposed. Parts are
    ``shortest`` to ``longest`` long; from one part's front to the next it is ``closest`` at least, ``usual`` more often,
    and now and then more; where it ``crowds``, many parts in a row come as close as they may. With ``mm_per_count`` the belt has an encoder and runs at ``slowest`` to ``speed``.
    """

    track: TrackSettings
    pick: PickSettings
    timing: Timing
    speed: float
    slowest: float
    gain: float
    mm_per_count: float | None
    window_from: float
    window_until: float
    view_from: float
    view_until: float
    shortest: float
    longest: float
    closest: float
    usual: float
    frame_ns: int
    scorer_ns: float
    scorer_sigma: float = 0.2
    backlog: int = 8
    silence_ns: int = 1_000_000_000
    crowds: bool = True

    @property
    def travel_mm(self) -> float:
        return self.track.travel * (self.mm_per_count or self.speed / 1e9)

    @property
    def gap_mm(self) -> float:
        return self.track.min_gap * (self.mm_per_count or self.speed / 1e9)


def slack_mm(speed: float, gain: float, mm_per_count: float | None, early_ns: int) -> float:
    """How far a part may be from where its pulse begins to act: reaction times at full speed; with an encoder also its
    counts, and a ramp that sets in after the part was decided on; without one, a ramp before its signal is heard."""
    late = speed * (EYE_NS + COMMAND_NS + 2 * EJECTOR_NS) / 1e9
    if mm_per_count is None:
        return late + gain / 2 * ((BELT_SIGNAL_NS + TURN_NS) / 1e9) ** 2 + 0.5
    ahead_s = (early_ns + TURN_NS + COMMAND_NS) / 1e9
    # A speed taken from counts is that of a moment ago: by a count or two, which from a standstill takes its time.
    ramp = gain / 2 * ahead_s**2 + ahead_s * math.sqrt(2 * gain * mm_per_count)
    return late + 4 * mm_per_count + min(ramp, speed * ahead_s) + 0.5


def random_scene(rng: random.Random) -> Scene:
    """A line that keeps the rules, anything else about it by chance: slow and fast belts, by time and by encoder, a
    part or fifty on their way, short and long ejectors, cameras that are a little too slow."""
    speed = math.exp(rng.uniform(math.log(100), math.log(1500)))
    encoded = rng.random() < 0.5
    count = rng.uniform(0.5, 3.0) * max(1.0, speed / 500) if encoded else None
    gain = rng.uniform(500, 4000)
    shortest = rng.uniform(10, 80)
    longest = shortest * rng.uniform(1.0, 1.5)
    timing = Timing(
        pulse_ms=round(rng.uniform(8, 60), 3),
        lead_ms=round(rng.choice([0.0, rng.uniform(0, 50)]), 3),
        min_off_ms=round(rng.choice([0.0, rng.uniform(0, 20)]), 3),
    )
    early_ns = timing.lead_ns + AHEAD_NS
    slack = slack_mm(speed, gain, count, early_ns)
    window = rng.uniform(5, 60)
    closest = longest * rng.uniform(1.05, 2.0)
    frame_ns = round(rng.uniform(6e6, 34e6))
    latency_ns = round(rng.uniform(2e6, 25e6))
    within_ns = round(frame_ns * rng.uniform(1.1, 2.2))
    scorer_ns = math.exp(rng.uniform(math.log(1e6), math.log(60e6)))
    usual = max(closest * rng.uniform(1.0, 4), speed * scorer_ns / 1e9 * rng.uniform(1.0, 2))
    camera, checked = _camera(rng, encoded, speed)
    delay_ns = round(camera / speed * 1e9)
    pulse_mm = speed * timing.pulse_ms / 1e3
    enter = slack + rng.uniform(0, 5)
    # A pulse that comes as late as it may must still find the shortest part in the window.
    window = max(window, enter + slack - shortest)
    gap = max(
        enter + pulse_mm + slack,
        window + longest - enter + slack,
        (pulse_mm + speed * timing.min_off_ms / 1e3) / 2 + slack,
    ) * rng.uniform(1.01, 1.2)
    needed = speed * (delay_ns + within_ns + latency_ns + early_ns + 1.2 * scorer_ns + TURN_NS) / 1e9
    # Some lines have a little less time than they need, a quarter have many parts on their way.
    window_from = max(needed * rng.choice([0.9, 1.0, rng.uniform(1.0, 3.0)]), gap + 1)
    window_from += rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 60) * usual])
    # From mm to the belt's unit.
    unit = 1 / count if count is not None else 1e9 / speed
    seen_until = camera - shortest / 2 + speed * (within_ns + latency_ns) / 1e9 + 1
    seen_from = camera - longest / 2 - 1
    play = rng.uniform(0.05, 0.3) * camera
    track = TrackSettings(
        travel=(window_from + enter) * unit,
        min_gap=gap * unit,
        lead_ns=timing.lead_ns,
        reach_ns=timing.pulse_ns,
        ahead_ns=AHEAD_NS,
        debounce_ns=round(min(5e6, 0.5 * closest / speed * 1e9)),
        max_in_flight=math.ceil((window_from + enter) / rng.choice([closest, closest, usual]))
        + rng.randint(1, 4),
        steady_ns=0 if encoded else round(speed / gain * 1e9 * 1.02) + 1_000_000,
        min_advance=closest * unit / 2 if encoded else 0.0,
        view_from_ns=delay_ns if checked else 0,
        view_until_ns=delay_ns + within_ns + latency_ns if checked else 0,
        view_from=(camera - play) * unit if checked else 0.0,
        view_until=(seen_until + longest / 2 + 2 * (count or 0)) * unit if checked else None,
    )
    extra = play + 2 * (count or 0.0) if checked else 0.0
    return Scene(
        track=track,
        pick=PickSettings(delay_ns, within_ns, latency_ns, within_ns + latency_ns + frame_ns),
        timing=timing,
        speed=speed,
        slowest=speed * (rng.uniform(0.95, 1.0) if checked else rng.uniform(0.3, 1.0)) if encoded else speed,
        gain=gain,
        mm_per_count=count,
        window_from=window_from,
        window_until=window_from + window,
        view_from=seen_from - extra,
        view_until=seen_until + longest / 2 + extra,
        shortest=shortest,
        longest=longest,
        closest=closest,
        usual=usual,
        frame_ns=frame_ns,
        scorer_ns=scorer_ns,
        silence_ns=round(rng.uniform(0.1e9, 1e9)),
    )


def _camera(rng: random.Random, encoded: bool, speed: float) -> tuple[float, bool]:
    """Where the camera is, and whether the tracker has to check that the belt brought the part there: after a set time it
    does so only at the set speed."""
    if not encoded:
        return rng.uniform(0, 300), False
    return (rng.uniform(20, 0.3 * speed + 20), True) if rng.random() < 0.3 else (0.0, False)


def fitted_scene(
    track: TrackSettings,
    pick: PickSettings,
    timing: Timing,
    *,
    speed: float,
    mm_per_count: float | None,
    closest: float | None = None,
    frame_ns: int = 33_333_333,
    scorer_ns: float = 20e6,
    silence_ns: int = 1_000_000_000,
) -> Scene:
    """Physics that a line's settings were made for: the ejector's window and the parts as large as its ``min_gap`` bears,
    the camera's view as the settings say, or else as long as a frame may take.

    Args:
        track, pick, timing: the settings, of the reject output that is the ejector.
        speed: of the belt, mm/s; with an encoder its highest.
        mm_per_count: of the encoder; None for travel by time.
        closest: the smallest distance of two parts, mm; None: half of the minimum gap.
        frame_ns: the camera's period.
        scorer_ns: the scorer's usual time for a part.
        silence_ns: as in :class:`edge_ad_runtime.guard.config.GuardConfig`.

    Raises:
        InputError: the minimum gap has no room for the pulse and the machine's reaction times.
    """
    mm = mm_per_count or speed / 1e9
    gain = 2000.0
    slack = slack_mm(speed, gain, mm_per_count, track.lead_ns + track.ahead_ns)
    gap, pulse = track.min_gap * mm, speed * timing.pulse_ms / 1e3
    travel = track.travel * mm + speed * timing.delay_ms / 1e3
    # As far before the pulse's place as its own length leaves room for.
    enter = min(gap - pulse - slack, 2 * slack)
    if enter <= 0.0:
        raise InputError(
            f"min_gap is {gap:.1f} mm, but a pulse of {timing.pulse_ms:g} ms at {speed:g} mm/s reaches {pulse:.1f} mm "
            f"and reaction times {slack:.1f} mm; make it larger than {pulse + slack:.1f} mm, or the pulse shorter"
        )
    apart = gap / 2 if closest is None else closest
    longest = max(min(0.8 * apart, gap - slack - enter / 2), 1.0)
    window = max(gap + enter - longest - slack, 1.0)
    view_from = speed * pick.delay_ns / 1e9 - longest / 2 - 1
    view_until = speed * (pick.delay_ns + pick.within_ns + pick.latency_ns) / 1e9 + 1
    if track.view_until is not None:
        # The settings speak of a part's front, the scene of its middle; the eye is late, and a count is a count.
        play = speed * EYE_NS / 1e9 + 2 * mm + 0.5
        view_from = track.view_from * mm - longest / 2 - play
        view_until = track.view_until * mm - 0.4 * longest + play
    return Scene(
        track=track,
        pick=pick,
        timing=timing,
        speed=speed,
        slowest=speed if mm_per_count is None else speed * 0.5,
        gain=gain,
        mm_per_count=mm_per_count,
        window_from=travel - enter,
        window_until=travel - enter + window,
        view_from=view_from,
        view_until=view_until,
        shortest=longest * 0.8,
        longest=longest,
        closest=max(apart, longest * 1.01),
        usual=max(apart, longest * 1.01, 1.2 * gap),
        frame_ns=frame_ns,
        scorer_ns=scorer_ns,
        silence_ns=silence_ns,
    )
