"""What a conversion can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edge_ad_calibration.fit import DEFAULT_FALSE_REJECT_RATE
from edge_ad_converters.ranges import RangeMethod
from edge_ad_converters.targets import target_form
from edge_ad_runtime.calibration import MixChoice
from edge_ad_runtime.engines import Precision, Target
from edge_ad_runtime.errors import InputError

DEVICES: dict[str, Target] = {"x86": "openvino", "raspberry-pi": "tflite", "jetson": "tensorrt"}
"""The target that is fastest on a kind of device."""

DEFAULT_MAX_DROP = 0.005
DEFAULT_MIN_MAP_CORRELATION = 0.98
# Wider than DEFAULT_MAX_DROP: a kind has a few images of all that the AUROC is measured on, so that the same
# exchange of ranks moves it farther. Against MVTec AD's bottle (20 good images, about 20 of each kind) it is 8
# pairs of a good and a defective image that changed places, well short of a kind that is lost.
DEFAULT_MAX_KIND_DROP = 0.02


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert to; see ``edge-ad convert --help``.

    ``score``, ``mix`` and ``background`` of None are the run's. ``max_drop`` is how far image AUROC and AUPRO
    may each drop on labelled images, ``max_kind_drop`` how far the image AUROC of each kind of defect,
    ``min_map_correlation`` how small the median map correlation of good images may be; a bundle that breaks one
    is written only with ``force``. ``ranges`` of None tries all methods. ``sensitivity`` measures each layer
    alone. ``compress`` is the share of the arithmetic to keep, above 0 and at most 1, or ``auto``: the least that
    breaks no limit; ``compress_steps`` how many steps of distillation mend what was cut (None: the compressor's
    own number, 0: none). ``command`` is a label: what was asked for.

    Raises:
        InputError: the target's engine does not compute in that precision, or a value is out of range.
    """

    target: Target = "ort"
    precision: Precision = "int8"
    false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE
    threshold: float | None = None
    score: str | None = None
    mix: MixChoice | None = None
    background: bool | None = None
    seed: int = 42
    max_drop: float = DEFAULT_MAX_DROP
    min_map_correlation: float = DEFAULT_MIN_MAP_CORRELATION
    max_kind_drop: float = DEFAULT_MAX_KIND_DROP
    force: bool = False
    ranges: RangeMethod | None = None
    sensitivity: bool = True
    compress: float | Literal["auto"] | None = None
    compress_steps: int | None = None
    command: str = ""

    def __post_init__(self) -> None:
        allowed = target_form(self.target).precisions
        if self.precision not in allowed:
            raise InputError(
                f"the target '{self.target}' has no arithmetic in {self.precision}; choose {' or '.join(allowed)}"
            )
        if self.ranges is not None and self.ranges not in get_args(RangeMethod):
            raise InputError(f"range method '{self.ranges}' is none of {', '.join(get_args(RangeMethod))}")
        if not 0 <= self.max_drop <= 1 or not -1 <= self.min_map_correlation <= 1:
            raise InputError("--max-drop lies between 0 and 1, --min-map-correlation between -1 and 1")
        if not 0 <= self.max_kind_drop <= 1:
            raise InputError(f"--max-kind-drop {self.max_kind_drop:g} does not lie between 0 and 1")
        share = self.compress
        if share is not None and share != "auto" and (isinstance(share, str) or not 0 < share <= 1):
            raise InputError(
                f"--compress {share} is no share of the arithmetic above 0 and at most 1; 0.25 keeps a "
                "quarter, auto as little as no limit forbids"
            )
        if self.compress_steps is not None and (self.compress is None or self.compress_steps < 0):
            raise InputError("--compress-steps is a number from 0 and goes with --compress")
