"""The main job on several data sets: train, evaluate, convert to INT8, and a table of what came out.

    python -m tests.studies.shared_sets OUT DATA[:STEPS] … [--penalty-images DIR] [--train-options "…"]

Every step is the command that a user types. A data set that has results in OUT already is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any


def edge_ad(*arguments: object) -> str:
    """Run a command; what it prints on standard output."""
    command = ["edge-ad", *map(str, arguments)]
    print("$", *command, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def one_set(
    data: Path, out: Path, steps: int | None, penalty: Path | None, extra: list[str]
) -> dict[str, Any]:
    """All steps on one data set; the figures."""
    result_file = out / "result.json"
    if result_file.exists():
        return dict(json.loads(result_file.read_text()))
    out.mkdir(parents=True, exist_ok=True)
    run, bundle = out / "run", out / "int8.edgead"
    start = time.monotonic()
    options: list[object] = [*(["--steps", steps] if steps else []), *extra]
    options += ["--penalty-images", penalty] if penalty else []
    edge_ad("train", data, "-o", run, "--size", "n", *options)
    seconds = time.monotonic() - start
    report = json.loads(edge_ad("convert", run, "-o", bundle, "--calibration-images", data, "--json"))
    edge_ad("evaluate", bundle, data, "-o", out / "pictures", "--json")
    config = json.loads((run / "config.json").read_text())
    result = {"data": data.name, "steps": config["steps"], "train_s": seconds, "report": report}
    result_file.write_text(json.dumps(result))
    return result


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    heads = ["data", "steps", "train s", "AUROC float", "AUROC INT8", "AUPRO float", "AUPRO INT8"]
    heads += ["good rejected", "defects passed", "score corr.", "map corr.", "flipped"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        r, a, b = result["report"], result["report"]["float"], result["report"]["target"]
        aupro = [f"{s['aupro']:.4f}" if s["aupro"] is not None else "-" for s in (a, b)]
        lines.append(
            f"| {result['data']} | {result['steps']} | {result['train_s']:.0f} | {a['image_auroc']:.4f} | "
            f"{b['image_auroc']:.4f} | {aupro[0]} | {aupro[1]} | {b['false_rejects']} | {b['escapes']} | "
            f"{r['score_correlation']:.4f} | {r['map_correlation']:.4f} | "
            f"{len(r['flipped_verdicts'])} of {r['measured_images']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("data", nargs="+", help="a data set's folder, with :STEPS if wanted")
    parser.add_argument("--penalty-images", type=Path)
    parser.add_argument("--train-options", default="", help="further options of edge-ad train, in one string")
    options = parser.parse_args()
    results = []
    for text in options.data:
        path, _, steps = text.partition(":")
        data = Path(path)
        results.append(
            one_set(
                data, options.out / data.name, int(steps) if steps else None, options.penalty_images,
                options.train_options.split(),
            )
        )  # fmt: skip
        print(table(results), flush=True)
    (options.out / "table.md").write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
