"""What INT8 costs in every engine that runs here, for every run given, and how far the engines are apart.

    python -m tests.studies.engines RUN … -o OUT [--targets ort,openvino,tflite] [--mend] [--threads 2]

Each run is converted to INT8 for each target on its own data with the default limits. A broken limit does not stop
the bundle (``--force``): it is recorded, and every layer is INT8. With --mend such a pair is converted once more
without force, which leaves layers in float; that is a row of its own. OUT keeps the bundles and a record for each
pair; the table ``engines.md`` and ``engines.json`` are made anew after each. Ctrl-C, then the same command, goes on;
a pair whose run or options have changed is done again, one whose code has changed is not (take another OUT).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar, get_args

import msgspec
import onnx
import torch

from edge_ad.conversion import ConvertOptions, convert, labelled_images
from edge_ad.report.model import GOOD, Report, from_dict
from edge_ad.run_folder import open_run, read_config
from edge_ad_converters.targets import target_form
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.engines import Target, open_engine
from edge_ad_runtime.errors import EdgeAdError, InputError, RunError
from edge_ad_runtime.files import make_folder, write_atomically
from tests.conversion.agreement import Agreement, agreement, difference_steps
from tests.studies.engines_table import Apart, Failure, Row, markdown

RUNS_HERE: tuple[Target, ...] = ("ort", "openvino", "tflite")
_REFERENCE: Target = "ort"
_Record = TypeVar("_Record")


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a finished pair. ``run`` is a SHA-256 over the run's files, ``options`` the conversion's;
    ``refused`` says why the conversion without force gave no bundle."""

    run: str
    options: str
    mended_too: bool
    rows: tuple[Row, ...]
    refused: str | None = None


class Compared(msgspec.Struct, frozen=True):
    """The agreement of a target with onnxruntime; the bundles, by their ids, that it was measured on."""

    bundles: tuple[str, str]
    apart: Apart


def key(run: Path) -> str:
    """What a run is called: its folder's name, or that of the folder around one called ``run``."""
    path = run.resolve()
    return path.parent.name if path.name == "run" else path.name


def fingerprint(run: Path) -> str:
    """SHA-256 over the configuration, the split and the nets."""
    digest = hashlib.sha256()
    for path in sorted([run / "config.json", run / "split.json", *run.glob("*.safetensors")]):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


class Study:
    """Converts, keeps records in ``out``, and reads them back."""

    def __init__(self, out: Path, mend: bool) -> None:
        self._out, self._mend = out, mend

    def pair(self, run: Path, target: Target) -> Pair:
        """The pair's record, from an earlier time if there is one.

        Raises:
            EdgeAdError: the conversion fails for another reason than a limit.
        """
        options = ConvertOptions(target=target, force=True, sensitivity=False)
        path = self._out / key(run) / f"{target}.json"
        found = fingerprint(run)
        kept = _read(path, Pair)
        if kept and (kept.run, kept.options) == (found, repr(options)) and kept.mended_too >= self._mend:
            return kept
        make_folder(path.parent)
        rows, refused = [self._convert(run, self.bundle(run, target), options)], None
        if self._mend and rows[0].broken:
            try:
                rows.append(
                    self._convert(
                        run,
                        path.with_name(f"{target}-mended.edgead"),
                        ConvertOptions(target, sensitivity=False),
                    )
                )
            except InputError as error:
                refused = str(error)
        pair = Pair(
            run=found, options=repr(options), mended_too=self._mend, rows=tuple(rows), refused=refused
        )
        write_atomically(path, msgspec.json.format(msgspec.json.encode(pair)))
        return pair

    def apart(self, run: Path, target: Target) -> Apart | None:
        """How far the target is from onnxruntime on the golden images of onnxruntime's bundle, with its
        calibration and its graph; None where there is no such bundle or the target has integers of its own."""
        paths = [self.bundle(run, t) for t in (_REFERENCE, target)]
        form = target_form(target)
        if target == _REFERENCE or form.centred or not all(p.exists() for p in paths):
            return None
        reference, own = (open_bundle(p) for p in paths)
        path = self._out / key(run) / f"{target}-against-{_REFERENCE}.json"
        kept = _read(path, Compared)
        if kept and kept.bundles == (reference.id, own.id):
            return kept.apart
        graph = onnx.load_from_string(reference.model)
        encoded = form.encode(graph)
        found: Agreement = agreement(
            open_engine(_REFERENCE, reference.model, "int8"),
            open_engine(target, encoded, "int8"),
            [sample.image for sample in reference.golden],
            reference.calibration,
            difference_steps(graph),
        )
        compared = Compared(
            (reference.id, own.id),
            Apart(found.maps, found.scores, found.steps, found.verdicts, encoded == own.model),
        )
        write_atomically(path, msgspec.json.encode(compared))
        return compared.apart

    def bundle(self, run: Path, target: Target) -> Path:
        """Where the pair's bundle is."""
        return self._out / key(run) / f"{target}.edgead"

    def _convert(self, run: Path, out: Path, options: ConvertOptions) -> Row:
        opened, load = open_run(run), os.getloadavg()[0]
        data = Path(opened.config.data)
        result = convert(opened, data, labelled_images(opened, None), out, options)
        return row(key(run), from_dict(result.report), load)


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    """A record; None where there is none, or one of another version of this program."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def row(category: str, report: Report, load: float) -> Row:
    """The figures of a conversion's report."""
    good = [i.map_correlation for i in report.images if i.kind == GOOD and i.map_correlation is not None]
    how = report.quantization
    assert how is not None
    return Row(
        category=category,
        target=report.built_for,
        engine=report.target.engine,
        stand_in=report.stand_in is not None,
        auroc=(report.float_.image_auroc, report.target.image_auroc),
        aupro=(report.float_.aupro, report.target.aupro),
        good_map_correlation=report.good_map_correlation,
        worst_good_map_correlation=min(good, default=None),
        map_correlation=report.map_correlation,
        worst_map_correlation=report.worst_map_correlation,
        score_correlation=report.score_correlation,
        flipped=len(report.flipped_verdicts),
        images=report.measured_images,
        in_float=tuple(layer.layer for layer in how.float_layers),
        ranges=how.range_method,
        broken=report.limits.broken,
        forced=report.limits.forced,
        ms=(report.latency_ms.float_, report.latency_ms.target),
        load=load,
    )


def measure(study: Study, runs: Sequence[Path], targets: Sequence[Target]) -> Iterator[list[Row | Failure]]:
    """All rows so far, after each pair."""
    rows: list[Row | Failure] = []
    for run in runs:
        for target in targets:
            print(f"== {key(run)}, {target}", flush=True)
            try:
                pair = study.pair(run, target)
                apart = study.apart(run, target)
            except EdgeAdError as error:
                rows.append(Failure(key(run), target, str(error)))
            else:
                first, *mended = pair.rows
                rows += [msgspec.structs.replace(first, apart=apart), *mended]
                if pair.refused is not None:
                    rows.append(Failure(key(run), target, pair.refused))
            yield rows


def write(out: Path, rows: Sequence[Row | Failure]) -> str:
    """``engines.md`` and ``engines.json``; returns the former."""
    text = markdown(rows)
    write_atomically(out / "engines.md", text.encode())
    write_atomically(out / "engines.json", msgspec.json.format(msgspec.json.encode(rows)))
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--targets", default=",".join(RUNS_HERE))
    parser.add_argument(
        "--mend", action="store_true", help="where a limit breaks, also leave layers in float"
    )
    parser.add_argument("--threads", type=int, help="of torch")
    given = parser.parse_args(arguments)
    targets = given.targets.split(",")
    if unknown := sorted(set(targets) - set(get_args(Target))):
        parser.error(f"unknown targets: {', '.join(unknown)}; known are {', '.join(get_args(Target))}")
    try:
        for run in given.runs:
            read_config(run)
    except RunError as error:
        parser.error(str(error))
    names = [key(run) for run in given.runs]
    if double := sorted({n for n in names if names.count(n) > 1}):
        parser.error(f"two runs are called {', '.join(double)}; the records would overwrite each other")
    if given.threads:
        torch.set_num_threads(given.threads)
    make_folder(given.out)
    # onnxruntime first: the others are compared with its bundle.
    targets.sort(key=lambda target: target != _REFERENCE)
    text = ""
    try:
        for rows in measure(Study(given.out, given.mend), given.runs, targets):
            text = write(given.out, rows)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on\n\n{text}")
        sys.exit(130)
    print(text)


if __name__ == "__main__":
    main()
