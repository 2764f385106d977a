"""``edge-ad benchmark``: train and measure on many data sets with several seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from edge_ad.benchmark.job import find_categories, run_benchmark
from edge_ad.benchmark.records import Result
from edge_ad.benchmark.table import as_dict, markdown
from edge_ad.cli.options import job_threads, resolve_device
from edge_ad.cli.training_options import training_options
from edge_ad.training.options import TrainOptions
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.stopping import stop_on_signals


def _seeds(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    texts = [text.strip() for value in values for text in value.split(",")]
    if not all(text.isascii() and text.isdigit() for text in texts):
        raise click.BadParameter(f"'{','.join(values)}' is not a list of whole numbers, like 42 or 1,2,3")
    return tuple(dict.fromkeys(map(int, texts)))


@click.command("benchmark")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs and the table."
)
@training_options
@click.option(
    "--seed",
    "--seeds",
    "seeds",
    multiple=True,
    callback=_seeds,
    default=[str(TrainOptions.seed)],
    show_default=True,
    metavar="SEED[,SEED…]",
    help="Seeds of the trainings; may be repeated.",
)
@click.option("--convert", type=click.Choice(["int8"]), help="Convert each run and measure the bundle too.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    data: tuple[Path, ...], out: Path, options: TrainOptions, seeds: tuple[int, ...], convert: str | None,
    device: str, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Train and evaluate on every data set that DATA is or holds, with every seed, and print a table.

    DATA are data sets with labelled test images, or folders of such. Each figure is the mean over the seeds
    and its standard deviation; the last row is the mean over the data sets. The table is kept up to date in
    OUT/benchmark.md and OUT/benchmark.json. Ctrl-C leaves what the same command goes on with; more data sets
    and seeds can be added to it.
    """
    job_threads(threads)
    categories = find_categories(data)

    def write(results: Sequence[Result], failures: Sequence[str] = ()) -> None:
        write_atomically(out / "benchmark.md", f"{markdown(results, options)}\n".encode())
        encoded = msgspec.json.format(msgspec.json.encode(as_dict(results, options, failures)), indent=2)
        write_atomically(out / "benchmark.json", encoded + b"\n")

    with stop_on_signals() as stop:
        done = run_benchmark(
            categories,
            out,
            options,
            seeds,
            device=resolve_device(device),
            int8=convert == "int8",
            stop=stop,
            say=lambda line: click.echo(line, err=True),
            after_each=write,
        )
    if done.results:
        write(done.results, done.failures)
    if as_json:
        result = as_dict(done.results, options, done.failures)
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    elif done.results:
        click.echo(markdown(done.results, options))
    for failure in done.failures:
        click.echo(f"failed: {failure}", err=True)
    if done.stopped:
        click.echo(f"stopped; go on with the same command ({out})", err=True)
        sys.exit(130)
    if done.failures:
        sys.exit(1)
