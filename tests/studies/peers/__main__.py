"""Our fused INT8 against the plain graph that each engine's own default tool quantizes, on the same images.

    python -m tests.studies.peers RUN DATA -o OUT [--steps ours,ort,openvino,litert,accuracy,latency]

Every step keeps its result in OUT and can be done by itself, each in an interpreter that has its tools; the table
``peers.md`` and ``peers.json`` are made of whatever OUT holds. Steps:

``ours``      bundles for onnxruntime, OpenVINO and LiteRT, by ``edge-ad convert``
``ort``       the plain graph by torch.onnx and ``onnxruntime.quantization``
``openvino``  the same by ``nncf.quantize``
``litert``    by ``litert-torch`` and ``ai-edge-quantizer``
``anomalib``  anomalib's ``to_openvino`` of the checkpoint given with --anomalib, which RUN was imported from
``accuracy``  AUROC, AUPRO, and correlation with the float nets, for every model in OUT (one thread)
``latency``   engine times, for every model in OUT; needs an idle machine

The peers' tools want a virtual environment of their own, with edge-ad's rooms in PYTHONPATH:

    python3.11 -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 nncf openvino onnx onnxscript onnxruntime 'litert-torch==0.10.*' \
        ai-edge-quantizer opencv-python-headless click msgspec safetensors scikit-learn tqdm
    PYTHONPATH=.:sdk:converters:runtime:calibration PEERS/bin/python -m tests.studies.peers …

All tools calibrate on the images that ``edge-ad convert`` would take. Ratios count; milliseconds are this machine's.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from edge_ad.conversion import ImageSets, choose_images
from edge_ad.data import Dataset, read_dataset
from edge_ad.run_folder import Run, open_run
from edge_ad_runtime.files import write_atomically
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import preprocess
from edge_ad_runtime.types import Image
from tests.studies.peers.accuracy import REFERENCE, Accuracy, Judge, judge_combined, read_test_set
from tests.studies.peers.latency import BASE, Latencies, time_models
from tests.studies.peers.models import Made, Model, read_made, write_made
from tests.studies.peers.plain import float_input
from tests.studies.peers.table import markdown

STEPS = ("ours", "ort", "openvino", "litert", "anomalib", "accuracy", "latency")
_logger = logging.getLogger(__name__)
_ACCURACY, _LATENCY = "accuracy.json", "latency.json"


class Study:
    """One run, its data, and the folder of the results."""

    def __init__(self, run: Run, data: Path, out: Path, anomalib: Path | None) -> None:
        self.run, self.data, self.out, self.anomalib = run, data, out, anomalib
        self.dataset: Dataset = read_dataset(data)
        self.sets: ImageSets = choose_images(run, data, self.dataset, seed=42)

    def ranges(self) -> list[Image]:
        """The calibration images, preprocessed."""
        return [preprocess(read_image(p), self.run.config.preprocess) for p in self.sets.ranges]

    def make(self, step: str) -> None:
        """Make a step's models; a tool that fails is left out with its reason."""
        try:
            made = self._maker(step)()
        except Exception as error:  # whatever another project's tool raises is a result
            _logger.exception("the step '%s' failed", step)
            made = Made((), f"{type(error).__name__}: {error}".splitlines()[0][:400])
        write_made(self.out, step, made)

    def _maker(self, step: str) -> Callable[[], Made]:
        # Each tool is imported only by its own step: no interpreter needs them all.
        def ours() -> Made:
            from tests.studies.peers.ours import make

            return make(self.run, self.data, self.out)

        def ort() -> Made:
            from tests.studies.peers.ort_default import make

            return make(self.run.nets, [float_input(b) for b in self.ranges()], self.out)

        def openvino() -> Made:
            from tests.studies.peers.openvino_default import make

            return make(self.run.nets, [float_input(b) for b in self.ranges()], self.out)

        def litert() -> Made:
            from tests.studies.peers.litert_default import make

            return make(self.run.nets, [float_input(b) for b in self.ranges()], self.out)

        def anomalib() -> Made:
            from tests.studies.peers.anomalib_export import make

            if self.anomalib is None:
                return Made((), "no checkpoint was given (--anomalib)")
            return make(self.anomalib, self.ranges(), self.out)

        return {"ours": ours, "ort": ort, "openvino": openvino, "litert": litert, "anomalib": anomalib}[step]

    def models(self) -> list[Model]:
        """Every model that the steps so far made, ours first."""
        made = read_made(self.out)
        return [m for step in STEPS if step in made for m in made[step].models]

    def accuracy(self) -> None:
        """Measure every model that has not been measured, and the float nets."""
        kept = [a for a in self.accuracies() if a.model != REFERENCE]
        images = read_test_set(self.run, self.dataset, self.sets)
        judge = Judge(self.run, images)
        found = [judge.reference()]
        reference = next((m for m in self.models() if m.name.startswith("anomalib fp32")), None)
        for model in self.models():
            own = [a for a in kept if a.model == model.name]
            if not own and model.graph == "anomalib":
                assert reference is not None
                own = [judge_combined(reference, model, self.out, images)]
            found += own or judge.judge(model, self.out)
            write_atomically(self.out / _ACCURACY, msgspec.json.encode(found))
            print(model.name, flush=True)

    def accuracies(self) -> list[Accuracy]:
        """What the accuracy step found."""
        path = self.out / _ACCURACY
        return msgspec.json.decode(path.read_bytes(), type=list[Accuracy]) if path.exists() else []

    def latency(self, rounds: int, threads: int) -> None:
        """Time every model on the first good image."""
        models = self.models()
        if BASE not in [m.name for m in models]:
            sys.exit(f"{self.out}: has no '{BASE}' to compare with; do the step 'ours' first")
        batch = preprocess(read_image(self.sets.fit[0]), self.run.config.preprocess)
        result = time_models(models, self.out, batch, rounds=rounds, threads=threads)
        write_atomically(self.out / _LATENCY, msgspec.json.encode(result))

    def latencies(self) -> Latencies | None:
        """What the latency step found."""
        path = self.out / _LATENCY
        return msgspec.json.decode(path.read_bytes(), type=Latencies) if path.exists() else None

    def write_table(self) -> str:
        """``peers.md`` and ``peers.json`` of what there is."""
        made, accuracies, latencies = read_made(self.out), self.accuracies(), self.latencies()
        c = self.run.config
        title = f"{self.data.name}, size {c.size}, {len(self.sets.ranges)} calibration images"
        text = markdown(title, made, accuracies, latencies)
        everything = {"title": title, "made": made, "accuracy": accuracies, "latency": latencies}
        write_atomically(self.out / "peers.md", text.encode())
        write_atomically(self.out / "peers.json", msgspec.json.format(msgspec.json.encode(everything)))
        return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--steps", default="ours,ort,openvino,litert,accuracy,latency")
    parser.add_argument("--anomalib", type=Path, help="the checkpoint that RUN was imported from")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    steps = given.steps.split(",")
    if unknown := sorted(set(steps) - set(STEPS)):
        parser.error(f"unknown steps: {', '.join(unknown)}; known are {', '.join(STEPS)}")
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    study = Study(open_run(given.run), given.data, given.out, given.anomalib)
    for step in steps:
        print(f"== {step}", flush=True)
        if step == "accuracy":
            study.accuracy()
        elif step == "latency":
            study.latency(given.rounds, given.threads)
        else:
            study.make(step)
    print(study.write_table())


if __name__ == "__main__":
    main()
