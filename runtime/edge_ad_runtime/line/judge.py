"""One frame to one judgement; whatever goes wrong on the way is a fault of this part alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import ImageError
from edge_ad_runtime.inspector import Inspection
from edge_ad_runtime.types import FloatArray, Image
from edge_ad_runtime.verdict import Fault, Verdict


class PartInspector(Protocol):
    """What the line needs of :class:`edge_ad_runtime.inspector.Inspector`."""

    calibration: Calibration

    def inspect(self, image: Image) -> Inspection:
        """Score an image, ``uint8 HxWx3`` RGB; as a camera's colours may lie in another order, of any strides."""
        ...


@dataclass(frozen=True)
class Judgement:
    """``image`` (``uint8 HxWx3`` RGB) and ``anomaly_map`` (``float32 hxw``) are None where there is none."""

    verdict: Verdict
    score: float | None = None
    fault: Fault | None = None
    detail: str | None = None
    image: Image | None = None
    anomaly_map: FloatArray | None = None


def judge(inspector: PartInspector, image: Image) -> Judgement:
    """Score an image, ``uint8 HxWx3`` RGB; never raises."""
    try:
        inspection = inspector.inspect(image)
        finite = math.isfinite(inspection.score)
    except ImageError as error:
        return Judgement(Verdict.FAULT, fault=Fault.FRAME, detail=str(error), image=image)
    except Exception as error:  # noqa: BLE001 - engines raise what they like; the part still gets a verdict
        return Judgement(
            Verdict.FAULT, fault=Fault.ENGINE, detail=f"{type(error).__name__}: {error}", image=image
        )
    if not finite:
        detail = f"the score is {inspection.score}"
        return Judgement(Verdict.FAULT, fault=Fault.NOT_FINITE, detail=detail, image=image)
    return Judgement(inspection.verdict, inspection.score, image=image, anomaly_map=inspection.anomaly_map)
