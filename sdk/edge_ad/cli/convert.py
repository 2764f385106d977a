"""``edge-ad convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from edge_ad.cli.options import job_threads
from edge_ad.cli.scoring_options import MIX_HELP, SCORE_HELP, mix, score
from edge_ad.conversion import ConvertOptions, convert, labelled_images
from edge_ad.run_folder import open_run
from edge_ad_calibration.fit import DEFAULT_FALSE_REJECT_RATE
from edge_ad_runtime.calibration import MixChoice


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The bundle, NAME.edgead.")
@click.option(
    "--target", type=click.Choice(["ort"]), default="ort", show_default=True, help="Engine on the device."
)
@click.option("--precision", type=click.Choice(["int8", "fp32"]), default="int8", show_default=True)
@click.option(
    "--calibration-images", type=click.Path(path_type=Path), help="Good images [default: the run's own data]."
)
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="Labelled data set to measure the cost on [default: the run's own data].",
)
@click.option(
    "--false-reject-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=DEFAULT_FALSE_REJECT_RATE,
    show_default=True,
    help="Share of good parts that the threshold may reject.",
)
@click.option("--threshold", type=float, help="A threshold of your own.")
@click.option("--score", callback=score, help=f"{SCORE_HELP}  [default: that of the run]")
@click.option("--mix", callback=mix, help=f"{MIX_HELP}  [default: that of the run]")
@click.option(
    "--background/--no-background",
    default=None,
    help="Take the autoencoder map's mean over good images off it.  [default: as the run does]",
)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of torch.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    run: Path, out: Path, target: Literal["ort"], precision: Literal["int8", "fp32"],
    calibration_images: Path | None, test: Path | None, false_reject_rate: float, threshold: float | None,
    score: str | None, mix: MixChoice | None, background: bool | None, seed: int, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Turn the finished RUN into a bundle for a device and say what that cost."""
    job_threads(threads)
    opened = open_run(run)
    options = ConvertOptions(target, precision, false_reject_rate, threshold, score, mix, background, seed)
    images = calibration_images or Path(opened.config.data)
    result = convert(opened, images, labelled_images(opened, test), out, options)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(msgspec.json.encode(result.report))
    else:
        click.echo(_summary(result.path, precision, result.report))


def _summary(path: Path, precision: str, report: dict[str, Any]) -> str:
    lines = [
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {report['gmac']:.2f} GMAC",
        f"measured on {report['measured_images']} images ({report['measured_on']}):",
        f"  {'':22}{'float':>10}{precision:>10}",
    ]
    rows = [
        ("image AUROC", "image_auroc"),
        ("image F1", "image_f1"),
        ("pixel AUROC", "pixel_auroc"),
        ("AUPRO", "aupro"),
    ]
    for label, key in rows:
        values = [report[side].get(key) for side in ("float", "target")]
        if None not in values:
            lines.append(f"  {label:22}{values[0]:10.4f}{values[1]:10.4f}")
    for label, key in (("good parts rejected", "false_rejects"), ("defects passed", "escapes")):
        values = [report[side].get(key) for side in ("float", "target")]
        if None not in values:
            lines.append(f"  {label:22}{values[0]:10d}{values[1]:10d}")
    latency = report["latency_ms"]
    worst = f"worst image {report['worst_map_correlation']:.4f}"
    lines += [
        f"  {'engine ms, this machine':22}{latency['float']:9.1f}{latency['target']:10.1f}",
        f"  score correlation {report['score_correlation']:.4f}, map correlation {report['map_correlation']:.4f} ({worst})",
        f"  flipped verdicts: {len(report['flipped_verdicts'])} of {report['measured_images']}",
    ]
    lines += [f"    {name}" for name in report["flipped_verdicts"]]
    return "\n".join(lines)
