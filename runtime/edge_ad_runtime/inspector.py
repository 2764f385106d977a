"""One image in, one verdict out: preprocessing, engine and scoring of an opened bundle."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np

from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import Engine, EngineOptions, RawMaps, open_engine
from edge_ad_runtime.engines.tiled import TiledEngine, whole_image_engine
from edge_ad_runtime.errors import BundleError, CalibrationError
from edge_ad_runtime.preprocess import Workspace, preprocess
from edge_ad_runtime.scoring import apply_calibration, decide
from edge_ad_runtime.types import FloatArray, Image
from edge_ad_runtime.verdict import Verdict


class Inspection(msgspec.Struct, frozen=True):
    """The result for one image.

    ``anomaly_map`` is ``float32 hxw`` on the network's grid, in memory of its own; ``engine_ns`` the engine's part of
    ``total_ns``, both by the monotonic clock. ``skipped_tiles`` of a bundle with tiles were not computed again,
    because no pixel of them had changed.
    """

    score: float
    threshold: float
    verdict: Verdict
    anomaly_map: FloatArray
    engine_ns: int
    total_ns: int
    skipped_tiles: int = 0


class Inspector:
    """Scores images with a bundle's engine and a calibration.

    The network's input, and what scoring needs in between, is memory that every image overwrites; an image is needed
    only until the call returns. Results have memory of their own. Not for several threads at once; each thread needs
    its own.
    """

    def __init__(
        self,
        bundle: Bundle,
        calibration: Calibration | None = None,
        threads: int | None = None,
        options: EngineOptions | None = None,
        *,
        skip_unchanged: bool = False,
    ) -> None:
        """Open the bundle's engine; without a calibration the bundle's factory one is used.

        ``threads`` and ``options`` are those of :func:`edge_ad_runtime.engines.open_engine`.

        Of a bundle with tiles, ``skip_unchanged`` computes those tiles only of which a pixel has changed since
        the image before; the results are the same.

        Raises:
            CalibrationError: the calibration was fitted with another bundle.
            BundleError, MissingExtra: see :func:`edge_ad_runtime.engines.open_engine`.
        """
        self.bundle = bundle
        self.engine: Engine = whole_image_engine(
            open_engine(bundle.manifest.target, bundle.model, bundle.manifest.precision, threads, options),
            bundle.manifest.preprocess,
            skip_unchanged,
        )
        self.calibration = calibration or bundle.calibration
        if self.calibration.bundle != bundle.id:
            raise CalibrationError(
                f"the calibration belongs to the bundle {self.calibration.bundle[:12]}, "
                f"this is {bundle.id[:12]}; recalibrate for this bundle"
            )
        background, manifest = self.calibration.background, bundle.manifest
        if background is not None and (background.height, background.width) != (
            manifest.map_height,
            manifest.map_width,
        ):
            raise CalibrationError(
                f"the calibration's background has {background.height}x{background.width} cells, the bundle's "
                f"maps {manifest.map_height}x{manifest.map_width}"
            )
        spec = manifest.preprocess
        self._workspace = Workspace(spec.height, spec.width)
        self._scratch: FloatArray = np.empty((manifest.map_height, manifest.map_width), np.float32)

    def raw_maps(self, image: Image) -> RawMaps:
        """The raw maps of a camera image, ``uint8 HxWx3`` RGB."""
        return self.engine.run(preprocess(image, self.bundle.manifest.preprocess, self._workspace))

    def inspect(self, image: Image) -> Inspection:
        """Score a camera image, ``uint8 HxWx3`` RGB."""
        start = time.monotonic_ns()
        batch = preprocess(image, self.bundle.manifest.preprocess, self._workspace)
        engine_start = time.monotonic_ns()
        maps = self.engine.run(batch)
        engine_end = time.monotonic_ns()
        if maps.ae.shape != self._scratch.shape:
            self._scratch = np.empty_like(maps.ae)
        combined, score = apply_calibration(maps, self.calibration, self._scratch)
        verdict = decide(score, self.calibration)
        return Inspection(
            score=score,
            threshold=self.calibration.threshold,
            verdict=verdict,
            anomaly_map=combined,
            engine_ns=engine_end - engine_start,
            total_ns=time.monotonic_ns() - start,
            skipped_tiles=self.engine.last_skipped if isinstance(self.engine, TiledEngine) else 0,
        )

    def warm_up(self, runs: int = 3) -> None:
        """Run the engine on a grey image so that the first part is not slower than the others."""
        # In the memory of all later images, which the engine looks at when it meets it first.
        self._workspace.batch.fill(128)
        for _ in range(runs):
            self._compute(self._workspace.batch)

    def _compute(self, batch: Image) -> RawMaps:
        """Run the engine on all of an input, whatever it has seen before."""
        if isinstance(self.engine, TiledEngine):
            self.engine.forget()
        return self.engine.run(batch)

    def self_test(self) -> float:
        """Run the golden samples; returns the largest deviation, relative to a golden map's maximum.

        Raises:
            BundleError: a map deviates by more than the bundle's tolerance.
        """
        worst = 0.0
        for i, sample in enumerate(self.bundle.golden):
            maps = self._compute(sample.image)
            for name, got, expected in (("st", maps.st, sample.map_st), ("ae", maps.ae, sample.map_ae)):
                deviation = float(np.abs(got - expected).max() / np.abs(expected).max())
                # Written so that a deviation that is not a number fails too.
                if not deviation <= self.bundle.manifest.golden_tolerance:
                    raise BundleError(
                        f"{self.bundle.path}: golden sample {i} deviates by {deviation:.3g} in the {name} "
                        f"map ({self.bundle.manifest.golden_tolerance:.3g} allowed): {self.engine.name} "
                        "does not compute on this device what the conversion measured"
                    )
                worst = max(worst, deviation)
        return worst


def open_inspector(
    path: Path,
    calibration: Calibration | None = None,
    threads: int | None = None,
    options: EngineOptions | None = None,
    *,
    skip_unchanged: bool = False,
) -> Inspector:
    """Open a bundle, check its golden samples, warm up: ready for the first part."""
    inspector = Inspector(
        open_bundle(path), calibration, threads, options=options, skip_unchanged=skip_unchanged
    )
    inspector.self_test()
    inspector.warm_up()
    return inspector
