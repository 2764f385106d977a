"""``edge-ad convert``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from edge_ad.cli.options import job_threads
from edge_ad.cli.scoring_options import MIX_HELP, SCORE_HELP, mix, score
from edge_ad.conversion import DEVICES, ConvertOptions, convert, labelled_images
from edge_ad.conversion.options import (
    DEFAULT_MAX_DROP,
    DEFAULT_MAX_KIND_DROP,
    DEFAULT_MIN_MAP_CORRELATION,
)
from edge_ad.report.text import shown_name
from edge_ad.run_folder import open_run
from edge_ad_calibration.fit import DEFAULT_FALSE_REJECT_RATE
from edge_ad_converters.ranges import RANGE_METHODS
from edge_ad_runtime.engines import TARGETS, Target


def _share(_: click.Context, __: click.Parameter, value: str | None) -> float | Literal["auto"] | None:
    """``auto`` or a number above 0 and at most 1."""
    if value is None:
        return None
    if value == "auto":
        return "auto"
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise click.BadParameter(
            f"'{value}' is neither auto nor a share of the arithmetic above 0 and at most 1; 0.25 keeps a quarter"
        )
    return share


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The bundle, NAME.edgead.")
@click.option(
    "--for", "device", type=click.Choice(list(DEVICES)), help="Take the target that is fastest there."
)
@click.option("--target", type=click.Choice(TARGETS), help="Engine on the device.  [default: ort]")
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16", "fp32"]),
    default="int8",
    show_default=True,
    help="Arithmetic; fp16 for openvino and tensorrt.",
)
@click.option(
    "--calibration-images", type=click.Path(path_type=Path), help="Good images [default: the run's own data]."
)
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="Labelled data set to measure the cost on [default: the run's own data].",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    default=DEFAULT_MAX_DROP,
    show_default=True,
    help="How far image AUROC and AUPRO may each drop. Layers stay in float, or there is no bundle.",
)
@click.option(
    "--max-kind-drop",
    type=click.FloatRange(0, 1),
    default=DEFAULT_MAX_KIND_DROP,
    show_default=True,
    help="How far the AUROC of a kind of defect may drop; one pair of images may change places in any case.",
)
@click.option(
    "--min-map-correlation",
    type=click.FloatRange(-1, 1),
    default=DEFAULT_MIN_MAP_CORRELATION,
    show_default=True,
    help="Of the float and the target's anomaly maps of good images, in the median.",
)
@click.option(
    "--compress",
    callback=_share,
    metavar="SHARE|auto",
    help="Keep this share of the arithmetic, such as 0.25; auto: as little as breaks no limit.",
)
@click.option(
    "--compress-steps",
    type=click.IntRange(0),
    help="Steps of distillation that mend what was cut; 0 is quick.  [default: the compressor's own]",
)
@click.option("--force", is_flag=True, help="Write the bundle whatever limit it breaks; it says so inside.")
@click.option(
    "--ranges",
    type=click.Choice(RANGE_METHODS),
    help="Method for the INT8 ranges.  [default: the one whose maps are closest to the float ones]",
)
@click.option(
    "--sensitivity/--no-sensitivity",
    default=True,
    show_default=True,
    help="Measure what INT8 in each layer alone does, for the report.",
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
    run: Path, out: Path, device: str | None, target: Target | None, calibration_images: Path | None,
    test: Path | None, threads: int | None, as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Turn the finished RUN into a bundle for a device and say what that cost.

    The bundle is measured against the float model before it is written, in its own engine, from the camera's
    image to the verdict. `edge-ad report` takes the page that says what was found out of it.
    """
    if chosen["compress_steps"] is not None and chosen["compress"] is None:
        raise click.UsageError("--compress-steps goes with --compress")
    if device is not None and target is not None:
        raise click.UsageError("--for chooses the target; give one of --for and --target")
    job_threads(threads)
    options = ConvertOptions(
        target=target or (DEVICES[device] if device else "ort"), command=_command_line(), **chosen
    )
    opened = open_run(run)
    images = calibration_images or Path(opened.config.data)
    result = convert(opened, images, labelled_images(opened, test), out, options)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(msgspec.json.encode(result.report))
    else:
        click.echo(_summary(result.path, options.precision, result.report))


def _command_line() -> str:
    """What was typed, for the record; empty where the verb was called from Python."""
    context = click.get_current_context()
    return "" if context.find_root().info_name is None else shlex.join(["edge-ad", *sys.argv[1:]])


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
    known = [k for k in report["kinds"] if None not in (k["float_auroc"], k["target_auroc"])]
    if lost := [k for k in known if k["target_auroc"] < k["float_auroc"]]:
        worst = min(lost, key=lambda k: float(k["target_auroc"]) - float(k["float_auroc"]))
        label = f"AUROC of '{shown_name(worst['kind'])}'"
        lines.append(
            f"  {label:22}{worst['float_auroc']:10.4f}{worst['target_auroc']:10.4f}  (drops the most)"
        )
    latency, engine = report["latency_ms"], report["target"]["engine"]
    score, median, worst, good = (
        "undefined" if report[name] is None else f"{report[name]:.4f}"
        for name in ("score_correlation", "map_correlation", "worst_map_correlation", "good_map_correlation")
    )
    lines += [
        f"  {'ms, this machine':22}{latency['float']:10.1f}{latency['target']:10.1f}  ({engine})",
        f"  score correlation {score}, map correlation {median} (good images {good}, worst image {worst})",
        f"  flipped verdicts: {len(report['flipped_verdicts'])} of {report['measured_images']}",
    ]
    lines += [f"    {name}" for name in report["flipped_verdicts"]]
    if (cut := report["compression"]) is not None:
        tried = [cut["uncompressed"], *cut["candidates"]]
        taken = next(c for c in tried if c["chosen"])
        lines.append(
            f"compression: {taken['label']}, {taken['gmac']:.3g} of {cut['uncompressed']['gmac']:.3g} GMAC, "
            f"{taken['latency_ratio']:.2f} of the uncompressed {precision}'s time; {len(tried) - 1} tried"
        )
    if (how := report["quantization"]) is not None:
        lines.append(f"INT8 ranges: {how['range_method']}; headroom of the differences {how['headroom']:.1f}")
        lines += [f"  left in float: {f['layer']} (+{f['cost_ms']:.2f} ms)" for f in how["float_layers"]]
    if report["stand_in"]:
        lines.append(report["stand_in"])
    lines += [f"LIMIT BROKEN: {text}" for text in report["limits"]["broken"]]
    return "\n".join(lines)
