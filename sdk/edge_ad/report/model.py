"""The record of a conversion, the bundle's ``report.json``.

Numbers that are not defined (the correlation of a constant map, the AUROC without labels) are None, null in
the file; a NaN given here is written as null too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import field

from edge_ad_runtime.calibration import Quantiles
from edge_ad_runtime.engines.base import Target
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.verdict import Verdict

FORMAT_VERSION = 1
GOOD = "good"


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of the two models, in its engine and with the calibration that was fitted in it.

    ``false_rejects`` are good images that it rejects, ``escapes`` defective ones that it passes, both at its
    ``calibrated_threshold``. The five figures before them and these two are None without labels (or masks).
    """

    engine: str
    precision: str
    calibrated_threshold: float
    quantiles: Quantiles
    image_auroc: float | None = None
    image_f1: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    false_rejects: int | None = None
    escapes: int | None = None


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Median time of one image in the engine, in ms, on the machine of the conversion."""

    float_: float = field(name="float")
    target: float


class ModelBytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Size of the model files, in bytes."""

    float_: int = field(name="float")
    target: int


class PrecisionCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a precision costs on this machine: median engine time in ms, resident memory in MB (1e6 bytes,
    None where it was not measured) and the model file's bytes."""

    precision: str
    engine: str
    engine_ms: float
    rss_mb: float | None
    model_bytes: int


class RangeCandidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method for the ranges of the activations, and the relative error of the anomaly maps that it made."""

    method: str
    map_error: float | None


class FloatLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A layer that was left in float, and the ms per image that this costs (None: not measured)."""

    layer: str
    cost_ms: float | None


class Quantization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the graph was quantized.

    ``headroom`` is the factor that the ranges reach beyond those of good images, ``headroom_source`` how it
    was measured; ``equalization`` whether weights were equalized across layers.
    """

    range_method: str
    candidates: tuple[RangeCandidate, ...]
    headroom: float
    headroom_source: str
    equalization: bool
    float_layers: tuple[FloatLayer, ...]


class LayerSensitivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The relative error of the anomaly maps if only this layer is INT8, and its share of the
    multiply-accumulates (0 to 1)."""

    layer: str
    map_error: float | None
    gmac_share: float
    left_float: bool


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the conversion may cost, and whether it does.

    ``max_drop`` is how far an accuracy figure may drop from float to target, ``min_map_correlation`` the
    smallest map correlation allowed, ``max_kind_drop`` how far the image AUROC of a kind of defect may drop, where
    it has so many images that one pair of ranks is less (None: no such limit). ``broken`` has a sentence for each broken limit;
    ``forced`` says that the user wanted the bundle whatever the limits say.

    Raises:
        InputError: ``passed`` contradicts ``broken``.
    """

    max_drop: float | None
    min_map_correlation: float | None
    passed: bool
    broken: tuple[str, ...]
    forced: bool
    max_kind_drop: float | None = None

    def __post_init__(self) -> None:
        if self.passed == bool(self.broken):
            raise InputError(f"limits: passed is {self.passed}, but {len(self.broken)} limits are broken")


class ImageResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One measured image, by each model with its own calibration.

    ``kind`` is ``good``, the name of a defect, or None without a label; a score is None where it is not finite.
    """

    name: str
    kind: str | None
    float_score: float | None
    target_score: float | None
    float_verdict: Verdict
    target_verdict: Verdict
    map_correlation: float | None

    @property
    def flipped(self) -> bool:
        """Whether one model passes the part and the other does not."""
        return (self.float_verdict is Verdict.PASS) != (self.target_verdict is Verdict.PASS)


class KindResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A kind of defect: how many images show it, and the image AUROC of these against the good ones, by each
    model; None without good images, or where the target's scores are not finite."""

    kind: str
    images: int
    float_auroc: float | None
    target_auroc: float | None

    @property
    def drop(self) -> float | None:
        """How far the AUROC drops; None where float's is not known.

        Only down to 0.5: a model does not see less of a kind than nothing, and below 0.5 the order is chance.
        """
        if self.float_auroc is None:
            return None
        return self.float_auroc - max(self.target_auroc or 0.0, min(0.5, self.float_auroc))


class CompressionCandidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The nets with less arithmetic: what is left, what that does in float, and how long the final form takes.

    ``gmac`` is in units of 1e9 for an image, ``share`` that of the uncompressed nets (0 to 1), ``parameters`` the
    graph's. The accuracy figures, ``kinds`` (float: the uncompressed nets, target: these) and
    ``good_map_correlation`` (to the uncompressed nets) are those of the float graph; None where the images do not
    tell. ``lost`` is the share of the map's cells that damage lifted before and no longer does. ``latency_ms`` is
    the median engine time of the final form and ``latency_ratio`` its ratio to the uncompressed nets' in the same
    rounds. ``broken`` has a sentence for each limit that breaks in float, ``target_broken`` in the final form (None:
    that was not built to be measured).
    """

    label: str
    gmac: float
    share: float
    parameters: int
    image_auroc: float | None
    aupro: float | None
    latency_ms: float
    latency_ratio: float
    kinds: tuple[KindResult, ...] = ()
    good_map_correlation: float | None = None
    lost: float | None = None
    broken: tuple[str, ...] = ()
    target_broken: tuple[str, ...] | None = None
    chosen: bool = False

    @property
    def worst_kind(self) -> KindResult | None:
        """The kind of defect whose AUROC drops the most; None without kinds."""
        return max(self.kinds, key=lambda k: defined(k.drop) or 0.0, default=None)

    @property
    def passes(self) -> bool:
        """Whether no limit is known to break."""
        return not self.broken and not self.target_broken


class Compression(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was tried to save arithmetic. ``asked`` is ``auto`` or the share of the arithmetic; the candidates are in
    the order of their GMAC, the least first.

    Raises:
        InputError: not exactly one of the candidates and the uncompressed nets was chosen.
    """

    asked: str
    uncompressed: CompressionCandidate
    candidates: tuple[CompressionCandidate, ...]

    def __post_init__(self) -> None:
        if sum(c.chosen for c in (self.uncompressed, *self.candidates)) != 1:
            raise InputError("the report of the compression does not say which candidate was chosen")

    @property
    def chosen(self) -> CompressionCandidate:
        """What the bundle holds."""
        return next(c for c in (self.uncompressed, *self.candidates) if c.chosen)


class ImageSets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Number of images that gave the INT8 ranges, the quantiles and threshold, and the figures."""

    ranges: int
    fit: int
    measurement: int


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a conversion did and what that cost: float model against target model on the same images.

    ``name`` is the bundle's, ``built_for`` its target; ``score_rule`` as in the calibration; ``created`` a
    wall-clock label. ``score_correlation`` is Pearson's over the images; a map correlation is Pearson's over
    the cells of an image's two combined maps: ``map_correlation`` the median over the images,
    ``worst_map_correlation`` the smallest, ``good_map_correlation`` the median over good images.
    ``fusion_deviation`` is the largest relative deviation of the fused float graph from the plain networks.
    ``stand_in`` says which engine computed where the target's own is not installed. ``kinds`` are the kinds of
    defect among the measured images. ``lost`` is the share of the map's cells that damage lifted in float and does
    not in target; it is measured where ``compression`` says what was tried. ``provenance`` is names and values (versions, command, data hash, machine,
    teacher, seed).

    Raises:
        InputError: the record contradicts itself, or is of a newer format.
    """

    name: str
    created: str
    built_for: Target
    score_rule: str
    float_: Side = field(name="float")
    target: Side
    score_correlation: float | None
    map_correlation: float | None
    worst_map_correlation: float | None
    good_map_correlation: float | None
    flipped_verdicts: tuple[str, ...]
    latency_ms: Latency
    measured_on: str
    measured_images: int
    precisions: tuple[PrecisionCost, ...]
    model_bytes: ModelBytes
    gmac: float
    fusion_deviation: float
    quantization: Quantization | None
    sensitivity: tuple[LayerSensitivity, ...]
    limits: Limits
    images: tuple[ImageResult, ...]
    sets: ImageSets
    warnings: tuple[str, ...]
    provenance: dict[str, str]
    stand_in: str | None = None
    kinds: tuple[KindResult, ...] = ()
    lost: float | None = None
    compression: Compression | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise InputError(
                f"report format {self.format_version} is not known here (this is {FORMAT_VERSION}); "
                "update edge-ad"
            )
        if not self.measured_images == self.sets.measurement == len(self.images) > 0:
            raise InputError(
                f"the report counts {self.measured_images} and {self.sets.measurement} measured images and "
                f"lists {len(self.images)}; it must be one number, at least 1"
            )
        if len({i.name for i in self.images}) < len(self.images):
            raise InputError("two measured images of the report have the same name")
        if list(self.flipped_verdicts) != [i.name for i in self.images if i.flipped]:
            raise InputError("flipped_verdicts are not the images whose verdicts differ, in their order")

    @property
    def flipped(self) -> list[ImageResult]:
        """The images whose verdict flipped."""
        return [i for i in self.images if i.flipped]

    @property
    def worst_image(self) -> ImageResult | None:
        """The image of the smallest map correlation; None where none is defined."""
        known = [(c, i) for i in self.images if (c := defined(i.map_correlation)) is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else None

    @property
    def labelled(self) -> bool:
        """Whether there are defective images among the measured ones."""
        return any(i.kind not in (None, GOOD) for i in self.images)


def defined(value: float | None) -> float | None:
    """The value, or None where it is None, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def image_name(path: Path) -> str:
    """A path as a name in the record; bytes that are not UTF-8 appear as ``\\xNN``, as JSON has no place for them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def as_dict(report: Report) -> dict[str, Any]:
    """The record under the names of ``report.json``, as the bundle's writer takes it."""
    return dict(msgspec.json.decode(msgspec.json.encode(report)))


def from_dict(fields: Mapping[str, Any]) -> Report:
    """The record of an opened bundle's ``report``.

    Raises:
        InputError: it is of another format, or damaged.
    """
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"a report of format {version or 'none'} is not known here (this is {FORMAT_VERSION}); "
            "convert the run again"
        )
    try:
        return msgspec.convert(fields, Report)
    except msgspec.ValidationError as error:
        raise InputError(f"the report is damaged: {error}") from error
