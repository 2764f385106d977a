"""What the device pays: engine times side by side, the loop's overhead, memory, and the start.

    python -m tests.benchmarks.device [BUNDLE_INT8 BUNDLE_FP32] [--rounds 100] [--json]

Without bundles, size ``n`` is converted with random weights: times and memory do not depend on the weights.
Ratios count; milliseconds are this machine's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import torch

from edge_ad.conversion import ConvertOptions, convert
from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets, normalize
from edge_ad.run_folder import open_run
from edge_ad.training.job import train
from edge_ad_runtime.cameras.base import Camera, Frame
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.link import ProcessGuard
from edge_ad_runtime.inspector import Inspector, open_inspector
from edge_ad_runtime.line.station import FreeStation, Recording
from edge_ad_runtime.preprocess import preprocess
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.timing import noise_frame
from edge_ad_runtime.types import Image
from tests.conftest import make_random_teacher, run_plan, write_parts

MEMORY_PARTS = 200


class PlainS(torch.nn.Module):
    """EfficientAD-S as the paper has it: three networks one after the other, nothing folded."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = EfficientAdNets(architecture("s"), (256, 256)).eval()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = normalize(image.permute(0, 3, 1, 2).float() / 255)
        st, ae = self.nets(batch)
        return st, ae


def plain_s_session() -> ort.InferenceSession:
    torch.manual_seed(0)
    example = torch.zeros((1, 256, 256, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        PlainS().eval(), (example,), dynamo=True, input_names=["image"],
        output_names=["map_st", "map_ae"], opset_version=18, verbose=False,
    )  # fmt: skip
    assert program is not None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def random_bundles(folder: Path) -> list[Path]:
    """Size ``n`` trained for one step on noise, converted to INT8 and to fp32."""
    data = write_parts(folder / "data")
    teacher = make_random_teacher(folder / "teacher.safetensors")
    run = folder / "run"
    assert train(run, run_plan(data, teacher, 1), "cpu", StopRequest(), False)
    bundles = []
    for precision in ("int8", "fp32"):
        bundles.append(folder / f"n-{precision}.edgead")
        options = ConvertOptions(precision=precision, force=True, sensitivity=False, ranges="min-max")
        convert(open_run(run), data / "train" / "good", None, bundles[-1], options)
    return bundles


def engine_times(int8: Inspector, fp32: Inspector, rounds: int) -> dict[str, float]:
    """Median engine milliseconds of the three, interleaved."""
    session = plain_s_session()
    batch = preprocess(noise_frame([]), int8.bundle.manifest.preprocess)
    runs: dict[str, Callable[[], object]] = {
        "n_int8": lambda: int8.engine.run(batch),
        "n_fp32": lambda: fp32.engine.run(batch),
        "s_fp32_plain": lambda: session.run(None, {"image": batch}),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 3):
        for name, run in runs.items():
            time.sleep(0.005)
            start = time.perf_counter_ns()
            run()
            if i >= 3:
                times[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


class _MemoryCamera(Camera):
    """Gives one image in memory again and again: the cost of decoding is the camera's, not the loop's."""

    name = "memory"

    def __init__(self, image: Image, count: int) -> None:
        self._image, self._left = image, count

    def read(self) -> Frame | None:
        if not self._left:
            return None
        self._left -= 1
        return Frame(self._image, self._left, time.monotonic_ns(), self.name)


class _MemorySource:
    name, live = "memory", False

    def __init__(self, image: Image, count: int) -> None:
        self._image, self._count = image, count

    def open(self) -> Camera:
        return _MemoryCamera(self._image, self._count)


def loop_overhead(inspector: Inspector, rounds: int, state: Path) -> dict[str, float]:
    """The loop's time for a part over the bare engine's, blocks of both in turn.

    ``with_preprocessing`` takes a 640x480 camera image, ``loop_alone`` an image that needs no resizing.
    """
    spec = inspector.bundle.manifest.preprocess
    camera_image = np.ascontiguousarray(noise_frame([])[:480, :640])
    small = preprocess(camera_image, spec)[0]
    batch = small[None]
    ratios: dict[str, list[float]] = {"with_preprocessing": [], "loop_alone": []}
    block = 100
    for _ in range(max(3, rounds // block)):
        for name, image in (("with_preprocessing", camera_image), ("loop_alone", small)):
            start = time.perf_counter_ns()
            for _ in range(block):
                inspector.engine.run(batch)
            engine = time.perf_counter_ns() - start
            link = ProcessGuard(GuardConfig(line="benchmark", outputs=("mock://x",)), state)
            source = _MemorySource(image, block)
            station = FreeStation(inspector, source, link, Recording(), StopRequest(), None)
            link.listen(station.hear)
            start = time.perf_counter_ns()
            station.run()
            ratios[name].append((time.perf_counter_ns() - start) / engine - 1)
            assert link.finish(0).parts == block
    return {name: statistics.median(values) for name, values in ratios.items()}


def command_line(bundle: Path, folder: Path) -> dict[str, float]:
    """A real ``edge-ad run``: seconds from the process's start to the first verdict, and its peak memory."""
    parts = folder / "parts"
    parts.mkdir()
    frame = noise_frame([])[:480, :640]
    for i in range(MEMORY_PARTS):
        cv2.imwrite(str(parts / f"{i:04d}.png"), frame)
    events = folder / "events.jsonl"
    # VmHWM begins anew at exec; the maximum that getrusage gives would include the process that forked this one.
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom edge_ad.cli import cli\n"
        "cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
    )
    arguments = [
        "run",
        str(bundle),
        "--camera",
        str(parts),
        "--events",
        f"jsonl:{events}",
        "--state",
        str(folder),
    ]
    start = time.monotonic_ns()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    first = json.loads(events.read_text().splitlines()[0])
    # The monotonic clock is one for all processes of a machine.
    verdict_ns = first["t_monotonic_ns"] + first["latency_ms"] * 1e6
    return {
        "start_to_first_verdict_s": (verdict_ns - start) / 1e9,
        "peak_rss_mb": int(done.stdout.splitlines()[-1]) * 1024 / 1e6,
    }


def measure(bundles: Sequence[Path], rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        int8_path, fp32_path = bundles or random_bundles(folder)
        int8, fp32 = open_inspector(int8_path), open_inspector(fp32_path)
        engine = engine_times(int8, fp32, rounds)
        return {
            "engine_ms": engine,
            "n_int8_over_n_fp32": engine["n_int8"] / engine["n_fp32"],
            "n_int8_over_s_fp32_plain": engine["n_int8"] / engine["s_fp32_plain"],
            "loop_overhead": loop_overhead(int8, rounds, folder),
            **command_line(int8_path, folder),
            "gmac": int8.bundle.manifest.gmac,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="*", type=Path, help="the INT8 and the fp32 bundle")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if len(options.bundles) not in (0, 2):
        parser.error("give two bundles, INT8 and fp32, or none")
    result = measure(options.bundles, options.rounds)
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
