"""``edge-ad bench``: time bundles against each other on this machine."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import click
import msgspec

from edge_ad.cli.tuned import tuned_options
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.images import read_image
from edge_ad_runtime.timing import BundleTiming, time_bundles


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True, help="Runs of each bundle.")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of each engine [default: as tuned, or all cores]."
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="Camera image to inspect [default: noise of 1280x960 px].",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    bundles: tuple[Path, ...], rounds: int, threads: int | None, image: Path | None, as_json: bool
) -> None:
    """Time BUNDLES against each other on this machine.

    Every round runs each bundle once, in an order that rotates, so that the machine's drift hits all
    alike. Engine is the network alone; end to end adds the preprocessing of a camera image, the scoring and
    the verdict. Memory is that of a process of its own with the bundle open. What 'edge-ad tune' chose for a bundle is
    used, unless --threads is given.
    """
    frame = None if image is None else read_image(image)
    options = [tuned_options(open_bundle(path), threads) for path in bundles]
    with click.progressbar(length=rounds, label="timing", file=sys.stderr) as bar:
        timings = time_bundles(
            bundles,
            rounds=rounds,
            threads=threads,
            image=frame,
            after_round=lambda: bar.update(1),
            options=options,
        )
    if as_json:
        result = {
            "bundles": timings,
            "rounds": rounds,
            "threads": threads,
            "options": options,
            "image": None if image is None else str(image),
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
        }
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    else:
        click.echo(_table(timings))


def _table(timings: list[BundleTiming]) -> str:
    width = max(len("bundle"), *(len(t.bundle) for t in timings))
    lines = [
        f"{'':<{width}}  {'engine, ms':>17}  {'end to end, ms':>17}  {'engine,':>9}  {'memory,':>9}",
        f"{'bundle':<{width}}  {'p50':>8} {'p99':>8}  {'p50':>8} {'p99':>8}  {'x first':>9}  {'MB':>9}  {'GMAC':>7}",
    ]
    for t in timings:
        e, a = t.engine_ms, t.end_to_end_ms
        memory = "-" if t.rss_mb is None else f"{t.rss_mb:.1f}"
        lines.append(
            f"{t.bundle:<{width}}  {e.p50:>8.2f} {e.p99:>8.2f}  {a.p50:>8.2f} {a.p99:>8.2f}  "
            f"{t.engine_ratio:>9.3f}  {memory:>9}  {t.gmac:>7.3f}"
        )
    return "\n".join(lines)
