"""A photo-eye made of the camera image: tells when the leading edge of a part crosses a line in the view.

The background is a running average that only empty belt goes into (``cv2.accumulateWeighted`` with a mask). OpenCV's
own background subtractors learn a colour as background once it is seen for a tenth of the time, and that is what
parts of one kind on a conveyor do.

All parts on a belt move alike. So from one frame to the next one displacement is sought that explains the edges of all
that is in view, and every part is followed by it; what comes in behind, leaves in front, stands still or is faster than
its own length a frame is told apart without a model of the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

# The view along the belt is looked at in this many columns.
_LENGTH = 160
_LEARN_FRAMES = 24
_LEARN_AT_LEAST = 8
# Noise beyond this many standard deviations is a part; 1.4826 makes a median deviation one (normal distribution).
_SIGMAS = 5.0
_MAD_TO_SIGMA = 1.4826
_CLOSE = np.ones((3, 3), np.uint8)
_EDGE = 3.0
_GATE = 8.0
_DOUBT_FRAMES = 3
_MISSING_FRAMES = 10
# A standstill explains a few edges of what is fixed in the view; parts that move outweigh them.
_STANDING = 3
# A change of speed by so many columns a frame is as unlikely as one edge that is not explained; at most four.
_CHANGE, _MOST_CHANGE = 8.0, 4.0
# A longer gap between two frames is no time in which the camera looked.
_LONGEST_STEP_S = 1.0

_Floats = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.uint8]


class MotionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where parts are looked for. All places are shares of the view, from 0 to 1.

    ``direction``: where parts move to in the image. ``line``: where the trip line stands, from the side where parts
    come in. ``lane``: the strip along the belt that is looked at, across the direction, from the top or the left.
    ``min_area``: smaller things, as a share of the lane's part of the view, are no parts. ``min_gap``: gaps shorter than
    this along the belt are within a part. ``contrast``: the least difference of a part from the belt, in grey levels of
    256, in one of the colours. ``learn_s``: how long the belt is learned at first, for which each place must be empty
    for more than half of the time. ``adapt_s``: the time constant with which it follows the light. ``forget_s``: a look
    that a place had for so much longer than all others, while parts moved, is taken for belt; a part of one colour must
    pass in twice that time.
    """

    direction: Literal["right", "left", "down", "up"] = "right"
    line: float = 0.5
    lane: tuple[float, float] = (0.0, 1.0)
    min_area: float = 0.005
    min_gap: float = 0.02
    contrast: float = 12.0
    learn_s: float = 2.0
    adapt_s: float = 30.0
    forget_s: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.line < 1:
            raise InputError(f"line {self.line:g} must be between 0 and 1, as a share of the view")
        if not 0 <= self.lane[0] < self.lane[1] <= 1:
            raise InputError(f"lane {self.lane} must be two shares of the view, the smaller first")
        for name, low, high in (
            ("min_area", 1e-4, 0.5), ("min_gap", 0.0, 0.5), ("contrast", 2.0, 200.0),
            ("learn_s", 0.1, 60.0), ("adapt_s", 1.0, 3600.0), ("forget_s", 1.0, 3600.0),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} {getattr(self, name):g} must be {low:g} to {high:g}")


class MotionTrigger:
    """Told of every frame; gives the times at which parts crossed the line.

    Parts that touch, or follow each other more closely than ``min_gap``, are one, as for a photo-eye. A part that moves
    on by more than the whole view between two frames is not seen. After :attr:`ready` has become true, parts that stand
    beyond the line already are not told of.
    """

    def __init__(self, settings: MotionSettings) -> None:
        self._settings = settings
        self._view: _View | None = None
        self._shape: tuple[int, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Learn the belt anew."""
        self._view = None
        self._flow = _Flow(self._settings.line * _LENGTH)
        self._samples: list[Image] = []
        self._first_ns: int | None = None
        self._last_ns = 0

    @property
    def ready(self) -> bool:
        """Whether the belt has been learned; before, no part is told of."""
        return self._view is not None

    def frame(self, image: Image, t_ns: int) -> list[int]:
        """The next frame, ``uint8 HxWx3`` in any order of colours, and its timestamp.

        Returns:
            For each part whose leading edge has crossed the line since the frame before, when: between the timestamps
            of the two, by how far it went in that time. The part itself crossed earlier, by the time from an exposure
            to its timestamp; like every delay of a trigger, that is part of a line's travel.
        """
        if image.shape != self._shape:
            self.reset()
            self._shape = image.shape
        small = _prepare(image, self._settings)
        if self._view is None:
            self._learn(small, t_ns)
            return []
        step_s = min(max(t_ns - self._last_ns, 0) / 1e9, _LONGEST_STEP_S)
        mask = self._view.look(small, step_s)
        s = self._settings
        gap, area = s.min_gap * _LENGTH, s.min_area * mask.size
        shares = self._flow.step(_segments(mask, gap, area), self._view.moving, step_s)
        before, self._last_ns = self._last_ns, t_ns
        return sorted(round(before + share * (t_ns - before)) for share in shares)

    def _learn(self, small: Image, t_ns: int) -> None:
        if self._first_ns is None:
            self._first_ns = t_ns
        elapsed_s = (t_ns - self._first_ns) / 1e9
        if elapsed_s >= len(self._samples) * self._settings.learn_s / _LEARN_FRAMES:
            self._samples.append(small)
        if elapsed_s >= self._settings.learn_s and len(self._samples) >= _LEARN_AT_LEAST:
            self._view = _View(np.stack(self._samples), self._settings)
            self._samples = []
            self._last_ns = t_ns


def _prepare(image: Image, settings: MotionSettings) -> Image:
    """The lane, small, turned so that parts move to the right."""
    along_rows = settings.direction in ("down", "up")
    across = image.shape[1] if along_rows else image.shape[0]
    first = round(settings.lane[0] * across)
    last = max(round(settings.lane[1] * across), first + 1)
    lane = image[:, first:last] if along_rows else image[first:last]
    length = lane.shape[0] if along_rows else lane.shape[1]
    breadth = lane.shape[1] if along_rows else lane.shape[0]
    thin = max(min(round(breadth * _LENGTH / length), 2 * _LENGTH), 8)
    size = (thin, _LENGTH) if along_rows else (_LENGTH, thin)
    small = np.asarray(cv2.resize(lane, size, interpolation=cv2.INTER_AREA), np.uint8)
    if along_rows:
        small = small.transpose(1, 0, 2)
    return np.ascontiguousarray(small[:, ::-1] if settings.direction in ("left", "up") else small)


class _View:
    """What of the view is not belt."""

    def __init__(self, samples: npt.NDArray[np.uint8], settings: MotionSettings) -> None:
        self.moving = False
        self._adapt_s = settings.adapt_s
        self._forget_s = settings.forget_s
        self._contrast = settings.contrast
        self._belt: _Floats = np.median(samples, axis=0).astype(np.float32)
        deviation = np.median(np.abs(samples - self._belt), axis=0).max(axis=2)
        noise = cv2.blur(deviation.astype(np.float32), (5, 5)) * _MAD_TO_SIGMA * _SIGMAS
        # Parts that went by while it was learned look like noise too; they must not blind it.
        self._least: _Floats = np.clip(noise, settings.contrast, 3 * settings.contrast).astype(np.float32)
        self._mask: _Mask = np.zeros(self._belt.shape[:2], np.uint8)
        self._before: _Floats = self._belt
        self._ghost: _Floats = self._belt.copy()
        self._votes: _Floats = np.zeros(self._belt.shape[:2], np.float32)

    def look(self, small: Image, step_s: float) -> _Mask:
        """The mask of parts: 1 or 0."""
        now = small.astype(np.float32) / self._light(small)
        differs = (np.abs(now - self._belt).max(axis=2) > self._least).astype(np.uint8)
        opened = cv2.morphologyEx(differs, cv2.MORPH_OPEN, _CLOSE)
        mask: _Mask = np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _CLOSE)).astype(np.uint8)
        self._lay_ghosts(now, mask, step_s)
        empty = (1 - np.asarray(cv2.dilate(mask, _CLOSE))).astype(np.uint8)
        cv2.accumulateWeighted(now, self._belt, min(step_s / self._adapt_s, 1.0), mask=empty)
        self._mask, self._before = mask, now
        return mask

    def _light(self, small: Image) -> _Floats:
        """How much brighter each colour is than the belt that was learned, where the belt was seen last: lamps flicker,
        and cameras set their exposure."""
        # Every third column and row of them is enough for a median.
        belt = self._belt[::3, ::3]
        lit = belt.min(axis=2) > 10
        seen = lit & (self._mask[::3, ::3] == 0)
        if np.count_nonzero(seen) < seen.size // 20:
            seen = lit
        if not seen.any():
            return np.ones(3, np.float32)
        ratio = np.median(small[::3, ::3][seen] / belt[seen], axis=0)
        return np.asarray(np.clip(ratio, 0.4, 2.5), np.float32)

    def _lay_ghosts(self, now: _Floats, mask: _Mask, step_s: float) -> None:
        """The look that a place mostly has while parts move is the belt's: a part had stood there when the belt was
        learned, or something was left in the view. While nothing moves the belt may stand, and parts on it."""
        changed = np.count_nonzero(np.abs(now - self._before).max(axis=2) > self._contrast)
        self.moving = bool(changed > max(mask.size // 500, 8))
        if not self.moving:
            return
        # A majority vote over time, as parts pass over a ghost too.
        same = np.abs(now - self._ghost).max(axis=2) < self._contrast
        self._votes += np.where(same, step_s, -step_s).astype(np.float32)
        other = self._votes <= 0
        self._ghost[other] = now[other]
        self._votes[other] = 0
        sure = self._votes >= self._forget_s
        self._votes[sure] = self._forget_s
        ghosts = sure & (np.abs(self._ghost - self._belt).max(axis=2) > self._least)
        if ghosts.any():
            self._belt[ghosts] = self._ghost[ghosts]
            mask[ghosts & same] = 0


@dataclass(frozen=True)
class _Segment:
    """Something in view: from column ``tail`` to ``lead``, in front."""

    tail: float
    lead: float

    @property
    def entering(self) -> bool:
        return self.tail <= 1

    @property
    def leaving(self) -> bool:
        return self.lead >= _LENGTH - 1


def _segments(mask: _Mask, gap: float, area: float) -> list[_Segment]:
    """What is in view, the one in front first."""
    columns = mask.sum(axis=0, dtype=np.int64)
    occupied = columns >= 2
    edges = np.flatnonzero(np.diff(np.concatenate(([0], occupied.view(np.int8), [0]))))
    runs: list[tuple[int, int]] = []
    for begin, end in edges.reshape(-1, 2).tolist():
        if runs and begin - runs[-1][1] <= gap:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((begin, end))
    return [_Segment(begin, end) for begin, end in reversed(runs) if columns[begin:end].sum() >= area]


@dataclass
class _Track:
    tail: float
    lead: float
    counted: bool
    doubt: int = 0
    missing: int = 0


class _Flow:
    """Parts from frame to frame."""

    def __init__(self, line: float) -> None:
        self._line = line
        self._tracks: list[_Track] = []
        self._before: list[_Segment] = []
        # Columns a second, once something was seen to move.
        self._speed: float | None = None
        self._begun = False

    def step(self, segments: list[_Segment], moving: bool, step_s: float) -> list[float]:
        """The next frame: for each part that has crossed the line, at which share of the time between the frames."""
        expected = None if self._speed is None else self._speed * step_s
        moved = self._displacement(segments, expected) if moving else 0.0
        if step_s > 0 and (moved or self._speed is not None):
            self._speed = moved / step_s
        for track in self._tracks:
            track.lead += moved
            track.tail += moved if track.tail > 1 else 0
        pairs, left_over = self._assign(segments)
        for track, segment in pairs:
            if not (segment.leaving and track.lead >= segment.lead):
                track.lead = segment.lead
            track.tail = segment.tail
            track.missing = 0
            track.doubt = max(track.doubt - 1, 0)
        # Behind the foremost in a segment others may hide.
        followed = [t for t, _ in pairs]
        self._tracks = [t for t in self._tracks if not t.doubt or any(t is f for f in followed)]
        for track in self._tracks:
            if not any(track is f for f in followed):
                hidden = any(s.tail - _EDGE <= track.lead <= s.lead + _EDGE for s in segments)
                track.missing = 0 if hidden else track.missing + 1
        for segment in left_over:
            self._tracks.append(self._newcomer(segment, moved))
        self._tracks = [t for t in self._tracks if not self._gone(t)]
        self._tracks.sort(key=lambda t: -t.lead)
        self._before, self._begun = segments, True
        return self._crossings(moved)

    def _gone(self, track: _Track) -> bool:
        return track.missing > _MISSING_FRAMES or (track.missing > 0 and track.tail >= _LENGTH - 1)

    def _crossings(self, moved: float) -> list[float]:
        shares = []
        for track in self._tracks:
            if not track.doubt and not track.counted and track.lead >= self._line:
                track.counted = True
                ahead = (track.lead - self._line) / moved if moved > 0.5 else 0.0
                shares.append(1 - min(max(ahead, 0.0), 1.0))
        return shares

    def _newcomer(self, segment: _Segment, moved: float) -> _Track:
        track = _Track(segment.tail, segment.lead, counted=False)
        if not self._begun:
            track.counted = segment.lead >= self._line
        elif not segment.entering:
            # A piece of something that was there before must last to be a part of its own, and does not become one
            # behind the line.
            middle = (segment.tail + segment.lead) / 2 - moved
            if any(s.tail <= middle <= s.lead for s in self._before):
                track.doubt, track.counted = _DOUBT_FRAMES, segment.lead >= self._line
        return track

    def _assign(self, segments: list[_Segment]) -> tuple[list[tuple[_Track, _Segment]], list[_Segment]]:
        """Each segment's own track, and the segments without one."""
        costs = []
        for track in self._tracks:
            for segment in segments:
                if segment.leaving and track.lead >= segment.lead and track.tail < segment.lead:
                    costs.append((0.0, track, segment))
                elif (off := abs(track.lead - segment.lead)) <= _GATE:
                    costs.append((off, track, segment))
        pairs: list[tuple[_Track, _Segment]] = []
        for _, track, segment in sorted(costs, key=lambda c: (c[0], -c[1].lead)):
            if not any(track is t or segment is s for t, s in pairs):
                pairs.append((track, segment))
        return pairs, [s for s in segments if not any(s is taken for _, taken in pairs)]

    def _displacement(self, segments: list[_Segment], expected: float | None) -> float:
        """How far everything has moved since the frame before, if anything has."""
        # Where all edges are outside of the view, the belt is taken to run on.
        candidates = {expected or 0.0}
        for track in self._tracks:
            for segment in segments:
                if not segment.leaving:
                    candidates.add(segment.lead - track.lead)
                if not segment.entering and track.tail > 1:
                    candidates.add(segment.tail - track.tail)
        possible = [d for d in candidates if -_EDGE <= d <= _LENGTH]

        def likely(moved: float) -> float:
            change = 0.0 if expected is None else min(abs(moved - expected) / _CHANGE, _MOST_CHANGE)
            return self._explains(segments, moved) - change - (_STANDING if abs(moved) < 1 else 0)

        return self._refined(segments, max(possible, key=likely, default=0.0))

    def _explains(self, segments: list[_Segment], moved: float) -> int:
        """How many edges this displacement explains, less what it cannot account for."""
        score = 0
        for track in self._tracks:
            lead, tail = track.lead + moved, track.tail + moved
            if lead < _LENGTH - 1:
                score += 1 if any(abs(lead - s.lead) <= _EDGE for s in segments) else -1
            if track.tail > 1 and tail < _LENGTH - 1:
                score += 1 if any(abs(tail - s.tail) <= _EDGE for s in segments) else -1
        for segment in segments:
            if segment.lead > moved + _EDGE and not segment.leaving:
                known = any(abs(t.lead + moved - segment.lead) <= _EDGE for t in self._tracks)
                score -= 0 if known else 1
        return score

    def _refined(self, segments: list[_Segment], moved: float) -> float:
        """The mean over the edges that it explains; they are seen in whole columns only."""
        seen = [
            segment.lead - track.lead
            for track in self._tracks
            for segment in segments
            if not segment.leaving and abs(track.lead + moved - segment.lead) <= _EDGE
        ]
        return sum(seen) / len(seen) if seen else moved
