"""The ``edge-ad`` command. Each verb is a module of its own, imported only when it is called."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from typing import Any

import click

from edge_ad import __version__
from edge_ad_runtime.errors import EdgeAdError

# Verb -> (one line for the overview, the extra whose packages its module imports or None).
# The overview stands here so that `edge-ad --help` works without any extra.
VERBS: dict[str, tuple[str, str | None]] = {
    "prepare": ("Make a data set from COCO annotations and folders of good images.", "host"),
    "distill": ("Distil a teacher from a frozen feature extractor.", "host"),
    "train": ("Train student and autoencoder on images of good parts.", "host"),
    "evaluate": ("Measure a run or a bundle on labelled images.", "host"),
    "benchmark": ("Train and measure on many data sets with several seeds.", "host"),
    "import": ("Turn another implementation's model into a run or a teacher.", "host"),
    "teachers": ("List, verify and fetch teachers by name.", "host"),
    "convert": ("Turn a run into a bundle for a device.", "host"),
    "report": ("Take the conversion's report out of a bundle.", None),
    "info": ("Show what a bundle is and how it is calibrated.", None),
    "verify": ("Check a bundle's files and its golden samples in this device's engine.", None),
    "cameras": ("List the cameras of this machine, or show how one behaves.", None),
    "line": ("Check a line file and draw the timing of one part; show and end guards.", None),
    "simulate": ("Try a line on a modelled belt, in virtual or real time.", None),
    "run": ("Inspect parts from a camera and drive the reject outputs.", None),
    "recalibrate": ("Refit quantiles and threshold from good parts on the device.", None),
    "rollback": ("Return to the previous calibration.", None),
    "tune": ("Find the fastest engine options for a bundle on this machine.", None),
    "bench": ("Time bundles against each other on this machine.", None),
}


class _Verbs(click.Group):
    """A group that imports a verb's module when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        extra = VERBS[cmd_name][1]
        try:
            # A verb that is a keyword of Python has a trailing underscore in its module's name.
            name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
            module = importlib.import_module(f"edge_ad.cli.{name}")
        except ModuleNotFoundError as error:
            if extra is None or (error.name or "").startswith("edge_ad"):
                raise
            raise click.ClickException(
                f"'edge-ad {cmd_name}' needs the package '{error.name}', which is not installed: "
                f"pip install 'edge-ad[{extra}]'"
            ) from error
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (text, _) in VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-ad")
def cli() -> None:
    """EfficientAD from a folder of good images to a reject signal on a production line."""


def main(args: list[str] | None = None) -> Any:
    """Run the command line; a known error, or one of the file system, ends with its message and exit code 1."""
    # A camera that is away is told by its own message, not by one of OpenCV's at every attempt to reopen it.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        return cli.main(args, prog_name="edge-ad")
    except EdgeAdError as error:
        click.echo(f"edge-ad: {error}", err=True)
    except OSError as error:
        # A full disk, a folder without permission: nothing that a traceback would explain better.
        click.echo(f"edge-ad: {error}", err=True)
    sys.exit(1)
