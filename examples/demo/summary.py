"""Show what the demo did, from the files that its commands left: python -m examples.demo.summary FOLDER

It also checks it: each rejected part must have had its pulse at the relay board, and each pulse its part.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.events import PartEvent

RUNS = (
    ("belt", "belt", "the line"),
    ("new_lamp_before", "new_lamp", "the line after its lamp was replaced"),
    ("new_lamp_after", "new_lamp", "the same, recalibrated"),
)
"""Name of the events file, name of the frames, what to call it."""
# A relay command reaches the board within this time of its verdict (10 ms of serial line, a loaded machine).
PATIENCE_NS = 250_000_000


@dataclass(frozen=True)
class Pulse:
    """What the relay board received for one pulse; times by the monotonic clock."""

    on_ns: int
    off_ns: int
    on_bytes: str
    off_bytes: str

    @property
    def width_ms(self) -> float:
        return (self.off_ns - self.on_ns) / 1e6


def read_events(path: Path) -> list[PartEvent]:
    """The parts of a run, in order."""
    return [msgspec.json.decode(line, type=PartEvent) for line in path.read_bytes().splitlines()]


def read_pulses(path: Path) -> list[Pulse]:
    """The pulses in the log of ``examples/relay_board.py``.

    Raises:
        DataError: there are bytes that are no command, or a pulse without an end.
    """
    pulses, on = [], None
    for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if record["means"] == "?":
            raise DataError(f"{path}: the relay received {record['bytes']}, which is no command")
        if record["means"].endswith(" on"):
            on = on or record
        elif on is not None:
            pulses.append(Pulse(on["t_monotonic_ns"], record["t_monotonic_ns"], on["bytes"], record["bytes"]))
            on = None
    if on is not None:
        raise DataError(f"{path}: the relay was left on")
    return pulses


def match(events: Sequence[PartEvent], pulses: Sequence[Pulse]) -> Iterator[tuple[PartEvent, Pulse | None]]:
    """Each rejected part with the pulse that its verdict gave, None if there was none.

    Two parts whose pulses touch share one.
    """
    for event in events:
        if event.verdict == "pass":
            continue
        verdict = event.t_monotonic_ns + round((event.latency_ms or 0.0) * 1e6)
        # The board may log the bytes a little before the line has noted its latency.
        candidates = (
            p for p in pulses if p.off_ns > event.t_monotonic_ns and p.on_ns < verdict + PATIENCE_NS
        )
        yield event, next(candidates, None)


def show_run(folder: Path, name: str, frames: str, title: str, pulses: Sequence[Pulse]) -> list[str]:
    """Print one run of the line; returns what is wrong with it."""
    events = read_events(folder / f"{name}.jsonl")
    kinds = {
        shot["frame"]: shot["kind"] for shot in json.loads((folder / f"images/{frames}.json").read_text())
    }
    bad = sum(kind != "good" for kind in kinds.values())
    kind_of = {e.part: kinds[Path(e.source).name] for e in events}
    caught = sum(e.verdict != "pass" and kind_of[e.part] != "good" for e in events)
    false = sum(e.verdict != "pass" and kind_of[e.part] == "good" for e in events)
    click.echo(
        f"\n{title}: {len(events)} parts, {bad} of them bad; "
        f"{caught} of {bad} bad ones rejected, {false} of {len(events) - bad} good ones"
    )
    errors, used = [], set()
    matched = list(match(events, pulses))
    for event, pulse in matched:
        if pulse is None:
            errors.append(f"{name}: part {event.part} was rejected, but the relay received nothing")
            continue
        used.add(pulse)
        score = "no score" if event.score is None else f"score {event.score:.3f} > {event.threshold:.3f}"
        click.echo(
            f"  part {event.part:2d}  {kind_of[event.part]:13s}  {event.verdict}  {score}  "
            f"relay received {pulse.on_bytes}, {pulse.width_ms:.0f} ms later {pulse.off_bytes}"
        )
    first, last = events[0].t_monotonic_ns, events[-1].t_monotonic_ns
    errors += [
        f"{name}: a pulse without a rejected part, {(p.on_ns - first) / 1e6:.0f} ms after the first part"
        for p in pulses
        if first < p.on_ns < last and p not in used
    ]
    return errors


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Show what the demo's commands left in FOLDER."""
    pulses = read_pulses(folder / "relay.jsonl")
    errors = [e for run in RUNS for e in show_run(folder, *run, pulses)]
    evaluations = [_evaluation(folder / name) for name in ("evaluation-float", "evaluation-int8")]
    click.echo(
        "\nimage AUROC    float {0[image_auroc]:.4f}, INT8 {1[image_auroc]:.4f}\n"
        "pixel AUROC    float {0[pixel_auroc]:.4f}, INT8 {1[pixel_auroc]:.4f}\n"
        "AUPRO          float {0[aupro]:.4f}, INT8 {1[aupro]:.4f}".format(*evaluations)
    )
    cost = evaluations[0]["image_auroc"] - evaluations[1]["image_auroc"]
    click.echo(f"INT8 costs     {cost:.4f} of image AUROC; {_quantization(folder / 'part.edgead')}")
    overlay = next(
        p for kind in ("chip", "scratch") for p in sorted(folder.glob(f"evaluation-int8/overlays/{kind}/*"))
    )
    click.echo(f"an overlay     {overlay}")
    for error in errors:
        click.echo(f"error: {error}", err=True)
    sys.exit(1 if errors else 0)


def _evaluation(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return result


def _quantization(bundle: Path) -> str:
    report = open_bundle(bundle).report
    return (
        f"score correlation {report['score_correlation']:.4f}, {len(report['flipped_verdicts'])} of "
        f"{report['measured_images']} verdicts flipped ({report['measured_on']})"
    )


if __name__ == "__main__":
    main()
