"""One bundle on x86 and on ARM64: golden samples, scores and verdicts side by side."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edge_ad_runtime.engines import Target
from edge_ad_runtime.events import PartEvent
from tests.arm64.environments import last_line
from tests.arm64.root import Arm64Error

# Runs `edge-ad` with the given words in the job's folder.
EdgeAd = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


class Side(msgspec.Struct, frozen=True):
    """What a bundle did on one machine. ``golden_deviation`` is relative to a golden map's maximum."""

    engine: str
    golden_deviation: float
    golden_tolerance: float
    parts: tuple[PartEvent, ...]


class _Verified(msgspec.Struct, frozen=True):
    """What is read of ``edge-ad verify --json``."""

    engine: str
    worst_deviation: float
    tolerance: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle in one environment on one emulated processor against the same bundle on x86.

    ``golden_x86`` and ``golden_arm64`` are the largest deviations from the bundle's golden maps, relative to
    a map's maximum; ``score_difference`` the largest of ``|arm64 - x86| / max(|x86|, threshold)``;
    ``verdicts_differing`` names the images. ``error`` is why there is nothing to compare, else None.
    """

    bundle: str
    target: Target
    precision: str
    environment: str
    processor: str
    engine_x86: str | None = None
    engine_arm64: str | None = None
    images: int = 0
    golden_x86: float | None = None
    golden_arm64: float | None = None
    golden_tolerance: float | None = None
    score_difference: float | None = None
    score_bound: float
    verdicts_differing: tuple[str, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the golden samples held, scores are within the bound, and every verdict is the same."""
        return (
            self.error is None
            and self.images > 0
            and self.score_difference is not None
            # Written so that a difference that is not a number fails too.
            and self.score_difference <= self.score_bound
            and not self.verdicts_differing
        )


def measure(edge_ad: EdgeAd, job: Path, bundle: str, images: str, events: str) -> Side:
    """Verify a bundle and run a folder through it; the names are relative to ``job``.

    Raises:
        Arm64Error: a command failed, or its record cannot be read.
    """
    verified = _verified(edge_ad(["verify", bundle, "--threads", "1", "--json"]))
    words = ["run", bundle, "--camera", images, "--threads", "1", "--state", f"{events}.state"]
    ran = edge_ad([*words, "--events", f"jsonl:{events}"])
    if ran.returncode:
        raise Arm64Error(f"edge-ad run: {_complaint(ran)}")
    return Side(
        engine=verified.engine,
        golden_deviation=verified.worst_deviation,
        golden_tolerance=verified.tolerance,
        parts=read_parts(job / events),
    )


def read_parts(path: Path) -> tuple[PartEvent, ...]:
    """The parts in an events file.

    Raises:
        Arm64Error: there is none, or a line is not an event.
    """
    try:
        return tuple(
            msgspec.json.decode(line, type=PartEvent) for line in path.read_bytes().splitlines() if line
        )
    except (OSError, msgspec.DecodeError) as error:
        raise Arm64Error(f"{path.name}: no record of parts ({error})") from error


def score_difference(x86: Sequence[PartEvent], arm64: Sequence[PartEvent]) -> float:
    """The largest difference of two runs' scores, relative to the larger of the x86 score and threshold.

    Scores of good parts lie around zero, so the score alone is no measure.

    Raises:
        Arm64Error: the runs are not of the same images, or there are none.
    """
    if not x86 or [p.source for p in x86] != [p.source for p in arm64]:
        raise Arm64Error(
            f"x86 recorded {len(x86)} parts and ARM64 {len(arm64)}, not the same ones; nothing to compare"
        )
    if faults := [p.source for p in (*x86, *arm64) if p.score is None]:
        raise Arm64Error(f"{faults[0]}: was a fault, so there is no score; give images that can be read")
    return max(
        abs((a.score or 0.0) - (x.score or 0.0)) / max(abs(x.score or 0.0), abs(x.threshold))
        for x, a in zip(x86, arm64, strict=True)
    )


def verdicts_differing(x86: Sequence[PartEvent], arm64: Sequence[PartEvent]) -> tuple[str, ...]:
    """The images on whose verdicts the two runs do not agree."""
    return tuple(
        f"{x.source}: {x.verdict} on x86, {a.verdict} on ARM64"
        for x, a in zip(x86, arm64, strict=True)
        if x.verdict != a.verdict
    )


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as Markdown."""
    heads = ("bundle", "target", "engine on ARM64", "as", "images", "golden", "scores", "verdicts differing")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for c in comparisons:
        engine = c.engine_arm64 or c.environment
        first = f"| {c.bundle} | {c.target} {c.precision} | {engine} | {c.processor} | {c.images} |"
        if c.error is not None:
            lines.append(f"{first} failed: {c.error} | | |")
        else:
            lines.append(
                f"{first} {c.golden_arm64:.3g} | {c.score_difference:.3g} | {len(c.verdicts_differing)} |"
            )
    return "\n".join(lines)


def _verified(done: subprocess.CompletedProcess[str]) -> _Verified:
    if done.returncode:
        raise Arm64Error(f"edge-ad verify: {_complaint(done)}")
    try:
        return msgspec.json.decode(done.stdout, type=_Verified)
    except msgspec.DecodeError as error:
        raise Arm64Error(f"edge-ad verify --json printed something else ({error})") from error


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0 or done.returncode > 128:
        number = -done.returncode if done.returncode < 0 else done.returncode - 128
        return f"ended by signal {number}; {last_line(done.stderr)}"
    # An engine's own words may take several lines, and its warnings stand before them.
    _, found, message = done.stderr.rpartition("edge-ad: ")
    return " ".join(message.split()) if found else last_line(done.stderr)
