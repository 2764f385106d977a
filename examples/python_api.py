"""Train on a folder of good images, measure, predict and convert, from Python.

    python examples/python_api.py DATA OUT [STEPS]

DATA has the MVTec AD layout. OUT gets the run and the bundle.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_ad.api import TrainOptions, convert, evaluate, load, train


def main(data: Path, out: Path, steps: int) -> None:
    model = train(data, out / "run", TrainOptions(size="n", steps=steps))
    print(f"image AUROC {evaluate(model, data).image_auroc:.4f}")

    bundle = convert(model, out / "part.edgead")
    print(f"INT8: image AUROC {bundle.report['target']['image_auroc']:.4f}, {bundle.path}")

    for prediction in load(bundle.path).predict(data / "test"):
        hottest = divmod(int(prediction.anomaly_map.argmax()), prediction.anomaly_map.shape[1])
        print(
            f"{prediction.name}: {prediction.verdict.value} {prediction.score:.4f}, hottest at row, column {hottest}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 2000)
