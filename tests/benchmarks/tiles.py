"""A large image in one network, in tiles, and in tiles of which those that have not changed are skipped.

    python -m tests.benchmarks.tiles [--size n] [--image 1024x768] [--tile 256] [--engine ort] [--rounds 9] [--json]

INT8 graphs with random weights, one thread, all sides in turn; milliseconds are this machine's, ratios count. The
baseline is ``tiled``. ``part`` is a still scene in which a square of a sixteenth of the image changes each time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from edge_ad.describe import describe
from edge_ad.nets.architecture import architecture
from edge_ad.nets.model import EfficientAdNets
from edge_ad_converters.cost import gmac
from edge_ad_converters.fuse import fuse
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.targets import target_form
from edge_ad_runtime.engines import Engine, Target, open_engine
from edge_ad_runtime.engines.tiled import TiledEngine
from edge_ad_runtime.tiling import TileGrid, TileSpec
from edge_ad_runtime.types import Image
from tests.studies.compression.ours import quick_int8

BASELINE = "tiled"


def network(size: str, height: int, width: int, target: Target) -> tuple[Engine, float]:
    """An INT8 engine with random weights and its GMAC for one input."""
    torch.manual_seed(0)
    nets = EfficientAdNets(architecture(size), (height, width)).eval()
    graph = export_onnx(fuse(describe(nets)))
    batch = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    model = target_form(target).encode(quick_int8(graph, [batch]))
    return open_engine(target, model, "int8", 1), gmac(graph)


def measure(
    size: str, image: tuple[int, int], tile: tuple[int, int], target: Target, rounds: int
) -> dict[str, Any]:
    """Milliseconds, ratio to ``tiled`` and tiles computed by each side; ``image`` and ``tile`` are height, width."""
    grid = TileGrid(TileSpec(*tile), *image)
    inner, each = network(size, *tile, target)
    engine, whole = network(size, *image, target)
    tiled, sparing = TiledEngine(inner, grid), TiledEngine(inner, grid, skip_unchanged=True)
    rng = np.random.default_rng(1)
    still = rng.integers(0, 256, (1, *image, 3), np.uint8)

    def noise() -> Image:
        return rng.integers(0, 256, still.shape, np.uint8)

    def part() -> Image:
        frame = still.copy()
        y, x = image[0] // 3, image[1] // 3
        place = np.s_[:, y : y + image[0] // 4, x : x + image[1] // 4]
        frame[place] = rng.integers(0, 256, frame[place].shape, np.uint8)
        return frame

    sides: dict[str, tuple[Engine, Callable[[], Image]]] = {
        "whole": (engine, noise),
        BASELINE: (tiled, noise),
        "skipping, all new": (sparing, noise),
        "skipping, a part": (sparing, part),
        "skipping, still": (sparing, lambda: still),
    }
    took: dict[str, list[float]] = {name: [] for name in sides}
    computed: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, (runner, frame) in sides.items():
            if name in ("skipping, a part", "skipping, still"):
                # The scene that the others left is not this one's.
                runner.run(still)
            batch = frame()
            before = sparing.computed
            start = time.monotonic_ns()
            runner.run(batch)
            if number:
                took[name].append((time.monotonic_ns() - start) / 1e6)
            computed[name] = sparing.computed - before if runner is sparing else len(grid)
    base = np.asarray(took[BASELINE])
    return {
        "tiles": len(grid),
        "gmac": {"whole": whole, BASELINE: each * len(grid)},
        "sides": {
            name: {
                "ms": float(np.median(values)),
                "ratio": float(np.median(np.asarray(values) / base)),
                "tiles": 0 if name == "whole" else computed[name],
            }
            for name, values in took.items()
        },
    }


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    gmacs = ", ".join(f"{name} {value:.3g}" for name, value in result["gmac"].items())
    lines = [
        f"{result['tiles']} tiles; GMAC: {gmacs}",
        f"{'':<18} {'ms':>9} {'x tiled':>8} {'tiles':>6}",
    ]
    for name, side in result["sides"].items():
        lines.append(f"{name:<18} {side['ms']:>9.2f} {side['ratio']:>8.3f} {side['tiles'] or '-':>6}")
    return "\n".join(lines)


def _pair(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(height or width), int(width)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="n")
    parser.add_argument("--image", type=_pair, default=(768, 1024))
    parser.add_argument("--tile", type=_pair, default=(256, 256))
    parser.add_argument("--engine", choices=("ort", "openvino"), default="ort")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args(words)
    result = measure(a.size, a.image, a.tile, a.engine, a.rounds)
    print(json.dumps(result, indent=2) if a.json else table(result))


if __name__ == "__main__":
    main()
