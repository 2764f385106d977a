"""The scorer of a simulation in real time: ``python -m edge_ad_runtime.simulation.live_scorer FOLDER``.

The line is the true one, with the guard in a process of its own; only its devices are modelled.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.calibration import Calibration, Quantiles
from edge_ad_runtime.cameras.live import LiveSource
from edge_ad_runtime.cores import beside, parse_cores, stay_on, usable_cores
from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.inspector import Inspection, Inspector
from edge_ad_runtime.line.assembly import Devices, Line, patience_ns
from edge_ad_runtime.line.judge import PartInspector
from edge_ad_runtime.simulation.faults import SHARES, Kind
from edge_ad_runtime.simulation.live_camera import BAD, GOOD, BeltCapture, BeltScene
from edge_ad_runtime.simulation.live_plan import (
    STATE,
    Ended,
    Failed,
    Injected,
    LivePlan,
    PartDone,
    Ready,
    Teller,
    read_plan,
)
from edge_ad_runtime.stopping import stop_on_signals
from edge_ad_runtime.types import Image
from edge_ad_runtime.verdict import Verdict

_PR_SET_PDEATHSIG = 1  # man 2 prctl
_CAMERA_PATIENCE_S = 600.0


class PlateInspector:
    """Reads the plates of :mod:`edge_ad_runtime.simulation.live_camera`, in a time around ``usual_ns``: log-normal, with
    ``sigma``."""

    def __init__(self, usual_ns: float, sigma: float, rng: random.Random) -> None:
        self.calibration = Calibration(
            bundle="none",
            quantiles=Quantiles(0.0, 1.0, 0.0, 1.0),
            threshold=(GOOD + BAD) / 2 / 255,
            method="given",
            false_reject_rate=None,
            images=1,
            created="",
            source="labels",
        )
        self._usual_ns = usual_ns
        self._sigma = sigma
        self._rng = rng

    def inspect(self, image: Image) -> Inspection:
        began = time.monotonic_ns()
        time.sleep(self._usual_ns * self._rng.lognormvariate(0.0, self._sigma) / 1e9)
        score, threshold = float(image.mean()) / 255, self.calibration.threshold
        took = time.monotonic_ns() - began
        verdict = Verdict.REJECT if score > threshold else Verdict.PASS
        return Inspection(score, threshold, verdict, np.zeros((1, 1), np.float32), took, took)


class FaultyInspector:
    """Now and then it takes ten times as long, or the engine fails."""

    def __init__(self, inspector: PartInspector, plan: LivePlan, teller: Teller, rng: random.Random) -> None:
        self._inspector = inspector
        self._kinds = plan.kinds
        self._teller = teller
        self._rng = rng
        self.calibration = inspector.calibration

    def inspect(self, image: Image) -> Inspection:
        began = time.monotonic_ns()
        inspection = self._inspector.inspect(image)
        if self._happens(Kind.SLOW):
            time.sleep(9 * (time.monotonic_ns() - began) / 1e9)
        if self._happens(Kind.ENGINE):
            raise RuntimeError("the engine failed (as asked)")
        return inspection

    def _happens(self, kind: Kind) -> bool:
        if kind not in self._kinds or self._rng.random() >= SHARES[kind]:
            return False
        self._teller.tell(Injected(kind))
        return True


def main() -> int:
    """Score until told to stop by SIGTERM."""
    folder = Path(sys.argv[1])
    plan, teller = read_plan(folder), Teller(folder)
    # Should the simulation be killed, this ends and takes its guard with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != plan.parent:
        return 1
    with stop_on_signals() as stop:
        try:
            if plan.line.scorer.nice:
                os.nice(plan.line.scorer.nice)
            cores = usable_cores()
            if plan.line.scorer.cpus is not None:
                stay_on(parse_cores(plan.line.scorer.cpus))
            rng = random.Random(f"{plan.seed}/{time.monotonic_ns()}")
            inspector, config = _inspector(plan, rng), plan.line
            if plan.kinds & {Kind.SLOW, Kind.ENGINE}:
                silence = max(config.failsafe.silence_ms, patience_ns(inspector) / 1e6)
                failsafe = msgspec.structs.replace(config.failsafe, silence_ms=silence)
                config = msgspec.structs.replace(config, failsafe=failsafe)
                inspector = FaultyInspector(inspector, plan, teller, rng)
            scene = BeltScene(plan)
            source = LiveSource(
                "modelled camera",
                lambda: BeltCapture(plan, scene, folder, lambda kind: teller.tell(Injected(kind))),
                stop,
            )
            line = Line(
                config,
                inspector,
                state=folder / STATE,
                devices=Devices(camera=source),
                stop=stop,
                on_part=lambda event: teller.tell(PartDone(event)),
                guard_cpus=beside(cores),
            )

            def tell_ready() -> None:
                if line.wait_ready(_CAMERA_PATIENCE_S):
                    teller.tell(Ready(os.getpid()))

            threading.Thread(target=tell_ready, name="tells ready", daemon=True).start()
            teller.tell(Ended(line.run()))
        except EdgeAdError as error:
            teller.tell(Failed(str(error)))
            return 1
    return 0


def _inspector(plan: LivePlan, rng: random.Random) -> PartInspector:
    if plan.bundle is None:
        return PlateInspector(plan.scene.scorer_ns, plan.scene.scorer_sigma, rng)
    inspector = Inspector(
        open_bundle(Path(plan.bundle)), plan.calibration, plan.line.scorer.threads, skip_unchanged=True
    )
    inspector.self_test()
    inspector.warm_up()
    return inspector


if __name__ == "__main__":
    sys.exit(main())
