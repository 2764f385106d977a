"""Options of a distillation, and the named sets of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edge_ad.nets.architecture import architecture
from edge_ad_runtime.errors import InputError


@dataclass(frozen=True)
class DistillConfig:
    """Options of a distillation.

    Data: ``views`` are extracted once, or with ``online`` new ones at every step and none kept. ``crop`` and
    ``grayscale`` are those of :class:`~edge_ad.distill.views.ViewSet`, ``view_size`` the teacher's pixels (the
    extractor sees twice as many). ``statistics`` views give the channels' mean and deviation.
    ``validation`` is the share of the images whose views are only measured, never trained on.

    Training: ``batch`` is that of all processes together. ``rate`` is Adam's peak learning rate;
    ``schedule`` ``cosine`` is 5 % warm-up, then a cosine to a hundredth. ``clip`` limits the gradients' norm
    (0: not at all). ``precision`` is that of the convolutions, the extractor's included where torch runs it;
    ``fp16`` needs a GPU. ``teacher_precision`` is that of the weights in the teacher's file.
    """

    size: str = "n"
    views: int = 3200
    online: bool = False
    view_size: int = 256
    crop: Literal["random", "whole"] = "random"
    grayscale: float = 0.15
    projection: Literal["pca", "pool"] = "pca"
    statistics: int = 256
    steps: int = 6500
    batch: int = 8
    rate: float = 3e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 1e-5
    clip: float = 1.0
    validation: float = 0.02
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    teacher_precision: Literal["fp32", "fp16"] = "fp32"
    seed: int = 42

    def __post_init__(self) -> None:
        architecture(self.size)
        _among("projection", self.projection, "pca", "pool")
        _among("crop", self.crop, "random", "whole")
        _among("schedule", self.schedule, "cosine", "constant")
        _among("precision", self.precision, "bf16", "fp16", "fp32")
        _among("teacher precision", self.teacher_precision, "fp32", "fp16")
        if min(self.views, self.steps, self.batch, self.statistics) < 1:
            raise InputError("views, statistics, steps and batch must be at least 1")
        if self.view_size % 16 or self.view_size < 64:
            raise InputError(f"the view size {self.view_size} must be a multiple of 16, at least 64")
        if not (0 <= self.grayscale <= 1 and 0 < self.validation < 1):
            raise InputError("grayscale must lie in 0 to 1, validation between 0 and 1")
        if not (self.rate > 0 and self.weight_decay >= 0 and self.clip >= 0):
            raise InputError("the learning rate must be above 0, weight decay and clip not below")


# What the paper says of its teachers (arXiv 2303.14535, Algorithm 3): whole images at random, no cache.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "size": "s",
        "online": True,
        "crop": "whole",
        "grayscale": 0.1,
        "projection": "pool",
        "statistics": 10_000,
        "steps": 60_000,
        "batch": 16,
        "rate": 1e-4,
        "schedule": "constant",
        "weight_decay": 1e-5,
        "clip": 0.0,
        "precision": "fp32",
    },
}


def preset(name: str, **given: Any) -> DistillConfig:
    """The options of a preset, those given replaced. The projection defaults to ``pool`` for ``s`` and ``m``.

    Raises:
        InputError: there is no such preset, or an option is out of range.
    """
    _among("preset", name, *PRESETS)
    options = PRESETS[name] | given
    if "projection" not in options and options.get("size", "n") != "n":
        options["projection"] = "pool"
    return DistillConfig(**options)


def _among(what: str, value: str, *known: str) -> None:
    if value not in known:
        raise InputError(f"{what} '{value}' is unknown: {', '.join(known)}")
