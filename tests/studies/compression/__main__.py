"""The table of compression: anomalib's export, PaDiM, S and n, plain, fused and cut, in accuracy and time.

    python -m tests.studies.compression [RUN[=DATA] …] -o OUT [--python VENV/bin/python …] [--rounds 100]

Without a RUN it makes every model with random weights, on which the time does not depend, times all of them in one
process and in turn, and writes the table. Each RUN is cut in every way that a conversion offers, quantized and
measured on DATA (by default what it was trained on) as ``edge-ad convert`` does it; runs that were themselves trained
with a cut are rows of their own. Every model and every figure is kept in OUT: Ctrl-C, then the same command, goes on.
What came out is ``compression.md``, ``compression.json``, ``pareto.png``, and ``failures.md`` with pictures of the
kinds of defect that a cut sees less well.

Steps, all by default: ``make`` (models with random weights), ``accuracy`` (of the runs; needs no idle machine),
``latency`` (needs one), ``failures``. The table is made anew from what OUT holds after each.

The other projects' tools are used where an interpreter has them, this one or one of those given with --python;
``tests.studies.peers`` and ``tests.studies.anomalib_import`` say how to set such interpreters up. Their INT8 graphs
are the defaults of each tool.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from edge_ad_converters.ranges import RangeMethod
from edge_ad_runtime.errors import EdgeAdError, RunError
from edge_ad_runtime.files import make_folder, write_atomically
from tests.studies.compression.accuracy import Effort, measure
from tests.studies.compression.cuts import CUTS
from tests.studies.compression.failures import write_failures
from tests.studies.compression.making import cost_of, failures_of, make_missing, models_of
from tests.studies.compression.pareto import draw
from tests.studies.compression.rows import Figures, Row, latency_rows, merge
from tests.studies.compression.subjects import measured_models, read_figures, subject
from tests.studies.compression.table import markdown
from tests.studies.compression.timing import read_times, time_all
from tests.studies.compression.variants import BASE, Variant, variants

STEPS = ("make", "accuracy", "latency", "failures")


class Study:
    """The folder of the results and what is to be in it."""

    def __init__(
        self, out: Path, chosen: Sequence[Variant], runs: Sequence[str], cuts: Sequence[str]
    ) -> None:
        self.out, self.chosen, self.runs, self.cuts = out, tuple(chosen), tuple(runs), tuple(cuts)
        self.models = out / "models"

    def make(self, pythons: Sequence[Path]) -> None:
        """The models with random weights."""
        make_missing(self.models, self.chosen, pythons)

    def accuracy(self, effort: Effort, pythons: Sequence[Path]) -> None:
        """Cut and measure every run."""
        for text in self.runs:
            for _ in measure(subject(text, self.out), [CUTS[c] for c in self.cuts], effort, pythons):
                self.write()

    def failures(self) -> None:
        """Each kind of defect that a cut sees less well, with pictures."""
        write_failures(
            self.out, {s.name: s for s in (subject(t, self.out) for t in self.runs)}, self.figures()
        )

    def latency(self, rounds: int, threads: int) -> None:
        """Time all models: those with random weights, and one run's of each row that has no such model."""
        random = [m for v in self.chosen for m in models_of(self.models, v)]
        models = [
            msgspec.structs.replace(m, file=str(self.models.relative_to(self.out) / m.file)) for m in random
        ]
        known = {v.key for v in self.chosen}
        for figures in self.figures():
            if figures.row not in known:
                known.add(figures.row)
                models += measured_models(self.out, figures)
        if BASE not in [m.name for m in models]:
            sys.exit(f"{self.out}: has no '{BASE}' to compare with; NNCF makes it (--python, see --help)")
        time_all(models, self.out, rounds=rounds, threads=threads)

    def figures(self) -> list[Figures]:
        """All figures so far, of every run that is in OUT."""
        return read_figures(self.out)

    def rows(self) -> list[Row]:
        """The lines of the table: the models with random weights first, each with the figures that belong to it."""
        known = [(v.key, v.words, cost_of(self.models, v)) for v in self.chosen]
        return merge(known, latency_rows(read_times(self.out)), self.figures())

    def write(self) -> str:
        """The table and the picture of what there is."""
        rows, times = self.rows(), read_times(self.out)
        missing = [line for v in self.chosen for line in failures_of(self.models, v)]
        text = markdown(rows, times, missing)
        everything = {"rows": rows, "latency": times, "missing": missing}
        write_atomically(self.out / "compression.md", text.encode())
        write_atomically(self.out / "compression.json", msgspec.json.format(msgspec.json.encode(everything)))
        if (picture := draw(rows, "openvino")) is not None:
            write_atomically(self.out / "pareto.png", picture)
        return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN[=DATA]")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument(
        "--python", type=Path, action="append", default=[], help="an interpreter with peers' tools"
    )
    parser.add_argument("--models", help="keys of the models with random weights; all by default")
    parser.add_argument("--cuts", help="keys of the cuts that are made of each run; all by default")
    parser.add_argument(
        "--ranges", choices=get_args(RangeMethod), help="one INT8 range method instead of the best"
    )
    parser.add_argument(
        "--recovery", type=int, help="steps of distillation; by default the compressor's own number"
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    known = {v.key: v for v in variants()}
    steps = _chosen(parser, "steps", given.steps, STEPS)
    models = _chosen(parser, "models", given.models, tuple(known))
    cuts = _chosen(parser, "cuts", given.cuts, tuple(CUTS))
    try:
        names = [subject(text, given.out).name for text in given.runs]
    except RunError as error:
        parser.error(str(error))
    if double := sorted({n for n in names if names.count(n) > 1}):
        parser.error(f"two runs are called {', '.join(double)}; the records would overwrite each other")
    make_folder(given.out)
    study = Study(given.out, [known[k] for k in models], given.runs, cuts)
    try:
        if "make" in steps:
            study.make(given.python)
        if "accuracy" in steps:
            study.accuracy(Effort(given.ranges, given.recovery), given.python)
        if "latency" in steps:
            study.latency(given.rounds, given.threads)
        if "failures" in steps:
            study.failures()
        print(study.write())
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on\n\n{study.write()}")
        sys.exit(130)
    except EdgeAdError as error:
        sys.exit(str(error))


def _chosen(
    parser: argparse.ArgumentParser, what: str, given: str | None, known: Sequence[str]
) -> tuple[str, ...]:
    """The keys in the order in which they are known."""
    wanted = list(known) if given is None else given.split(",")
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"unknown {what}: {', '.join(unknown)}; known are {', '.join(known)}")
    return tuple(k for k in known if k in wanted)


if __name__ == "__main__":
    main()
