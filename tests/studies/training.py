"""Trainings with different options on several data sets, side by side: what each option gains or costs.

    python -m tests.studies.training OUT --data "DIR[: OPTIONS]" … --variant "NAME: OPTIONS" … [--seeds 42,1,2] [--steps 1000]

Each run keeps its raw maps of the test images, so that image scores and mixes are compared without training
again. A run that has results in OUT already is not done again. ``--workers`` trainings run at a time, one
thread each. A variant whose first option is ``@MODULE`` is trained by ``python -m MODULE`` in place of
``edge-ad``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.data import read_dataset
from edge_ad.describe import describe
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.run_folder import CALIBRATION, CHECKPOINT, Run, open_run, open_scorer
from edge_ad_converters.cost import gmac
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.images import read_image

RAW = "raw_maps.npz"
RESULT = "result.json"
_EXPORT = threading.Lock()


@dataclass(frozen=True)
class Case:
    """One training."""

    data: Path
    variant: str
    options: tuple[str, ...]
    seed: int
    steps: int

    def folder(self, out: Path) -> Path:
        return out / self.variant / f"{self.data.name}-{self.seed}"


def do(case: Case, out: Path) -> dict[str, Any]:
    """Train, measure, and keep the raw maps of the test and of the validation images."""
    folder = case.folder(out)
    if (folder / RESULT).exists():
        return dict(json.loads((folder / RESULT).read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run"
    program, options = ["edge-ad"], case.options
    for own in [o for o in options if o.startswith("@")]:
        program, options = [sys.executable, "-m", own[1:]], tuple(o for o in options if o != own)
    seconds = None
    if not (run / CALIBRATION).exists():
        command = [
            *program, "train", str(case.data), "-o", str(run), "--seed", str(case.seed), "--steps",
            str(case.steps), "--threads", "1", *options,
        ]  # fmt: skip
        if (run / CHECKPOINT).exists():
            command.append("--resume")
        start = time.monotonic()
        with (folder / "log").open("wb") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
        seconds = time.monotonic() - start
    opened, scorer, dataset = open_run(run), open_scorer(run), read_dataset(case.data)
    evaluation = evaluate(scorer, opened.config.preprocess, dataset)
    groups = {
        "test": [i.path for i in dataset.test],
        "validation": [Path(opened.config.data) / n for n in opened.split.validation],
    }
    arrays: dict[str, Any] = {}
    for name, paths in groups.items():
        maps = [scorer.raw_maps(read_image(p)) for p in paths]
        arrays |= {f"{name}_st": np.stack([m.st for m in maps]), f"{name}_ae": np.stack([m.ae for m in maps])}
    np.savez_compressed(folder / RAW, **arrays, defect=[i.defect for i in dataset.test])
    figures = evaluation.as_dict()
    keys = ("image_auroc", "pixel_auroc", "aupro")
    result = {
        "data": case.data.name, "variant": case.variant, "seed": case.seed, "steps": case.steps,
        "seconds": seconds, "channels": opened.nets.teacher.out_channels,
        "gmac": graph_gmac(opened), **{k: figures.get(k) for k in keys},
    }  # fmt: skip
    (folder / RESULT).write_text(json.dumps(result))
    return result


def graph_gmac(run: Run) -> float:
    """The arithmetic of a run's fused graph."""
    # torch's exporter takes one graph at a time.
    with _EXPORT:
        return gmac(export_onnx(fuse(describe(run.nets))))


def table(results: list[dict[str, Any]], keys: tuple[str, ...] = ("image_auroc", "aupro")) -> str:
    """A Markdown table: a row for each data set, for each variant the mean (and spread) over the seeds."""
    variants = list(dict.fromkeys(r["variant"] for r in results))
    sets = list(dict.fromkeys(r["data"] for r in results))
    lines = [f"| data | {' | '.join(f'{v} {k}' for v in variants for k in keys)} |"]
    lines.append("|---" * (1 + len(variants) * len(keys)) + "|")
    for name in sets:
        cells = []
        for variant in variants:
            found = [r for r in results if (r["data"], r["variant"]) == (name, variant)]
            for key in keys:
                values = [r[key] for r in found if r[key] is not None]
                spread = f" ± {np.std(values):.4f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.4f}{spread}" if values else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """``NAME: OPTIONS``."""
    name, _, options = text.partition(":")
    return name.strip(), tuple(shlex.split(options))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", required=True, help="DIR, or DIR: options of edge-ad train")
    parser.add_argument("--variant", action="append", required=True, help="NAME: options of edge-ad train")
    parser.add_argument("--seeds", default="42")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    cases = []
    for text in given.variant:
        name, options = _split(text)
        for seed in given.seeds.split(","):
            for data in given.data:
                folder, own = _split(data)
                cases.append(Case(Path(folder), name, (*own, *options), int(seed), given.steps))
    with ThreadPoolExecutor(given.workers) as pool:
        done = []
        for case, future in [(c, pool.submit(do, c, given.out)) for c in cases]:
            try:
                done.append(future.result())
            except (subprocess.CalledProcessError, EdgeAdError) as error:
                print(f"{case.folder(given.out)}: {error}", flush=True)
                continue
            print(json.dumps(done[-1]), flush=True)
    print(table(done))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
