"""INT8 in a conversion: the search, and the layers that a limit keeps in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from tqdm import tqdm

from edge_ad.conversion.images import ImageSets
from edge_ad.conversion.inputs import NetworkInputs, network_inputs
from edge_ad.conversion.measure import Measurement
from edge_ad.conversion.model import ConvertedModel
from edge_ad.conversion.options import ConvertOptions
from edge_ad.conversion.timing import time_engines
from edge_ad.report.model import FloatLayer, LayerSensitivity, Quantization, RangeCandidate
from edge_ad_converters.coverage import coverage
from edge_ad_converters.int8 import CalibrationSets, Int8Search
from edge_ad_converters.ranges import RANGE_METHODS
from edge_ad_converters.stress import stress_images
from edge_ad_converters.targets import TargetForm
from edge_ad_runtime.preprocess import PreprocessSpec

# More images choose no better and cost time.
_CHOOSING_IMAGES = 12
_DAMAGED_IMAGES = 32
# Left in float at most: beyond this share of the arithmetic it is no INT8 model.
MAX_FLOAT_SHARE = 0.5
_TIMING_ROUNDS = 15


@dataclass(frozen=True)
class Attempt:
    """A quantized model, what it was measured to do, and which layers it keeps in float."""

    model: ConvertedModel
    measurement: Measurement
    broken: tuple[str, ...]
    in_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantized:
    """The attempt to keep, and the record of how it came about."""

    attempt: Attempt
    record: Quantization
    sensitivity: tuple[LayerSensitivity, ...]
    warnings: tuple[str, ...] = field(default=())


OpenGraph = Callable[[onnx.ModelProto], ConvertedModel]
Judge = Callable[[ConvertedModel], tuple[Measurement, tuple[str, ...]]]


def quantize(
    model: onnx.ModelProto,
    form: TargetForm,
    sets: ImageSets,
    spec: PreprocessSpec,
    options: ConvertOptions,
    open_: OpenGraph,
    judge: Judge,
    *,
    mend: bool = True,
) -> Quantized:
    """Search, build, measure; if a limit breaks, leave the fewest layers in float that mend it.

    A model that will not be written gets no scan of its layers' sensitivity.

    Args:
        model: the float graph in the form's kind.
        form: the target's.
        sets: the images.
        spec: the preprocessing.
        options: the limits among them.
        open_: opens a QDQ graph in the target's engine.
        judge: fits and measures what was opened, and names the limits that it breaks.
        mend: False leaves no layer in float.

    Raises:
        DataError: all calibration images look alike.
    """
    inputs = network_inputs(sets.ranges, spec)
    batches = inputs.batches

    def assess(in_float: Sequence[str]) -> Attempt:
        model = open_(search.build(in_float))
        measurement, broken = judge(model)
        return Attempt(model, measurement, broken, tuple(in_float))

    held_out = network_inputs(sets.fit[:_CHOOSING_IMAGES], spec).batches
    with tqdm(bar_format="{desc} ({elapsed})", leave=False) as status:
        search = Int8Search(
            model,
            CalibrationSets(
                batches,
                stress_images(batches[:_DAMAGED_IMAGES], options.seed),
                held_out,
                stress_images(held_out, options.seed + 1),
            ),
            form.scheme,
            RANGE_METHODS if options.ranges is None else (options.ranges,),
            status.set_description_str,
        )
        best = assess(())
        chosen = best
        if best.broken and mend and not options.force:
            chosen = _fewest_in_float(search, assess) or best
        wanted = options.sensitivity and (options.force or not chosen.broken)
        sensitivity = search.sensitivity if wanted or chosen.in_float else ()
    costs = _float_costs(search, open_, spec, best, chosen)
    record = Quantization(
        range_method=search.best.label,
        candidates=tuple(RangeCandidate(method=c.label, map_error=c.error) for c in search.candidates),
        headroom=search.headroom,
        headroom_source=(
            f"the differences that {min(len(batches), _DAMAGED_IMAGES)} good images with squares of noise, black, "
            "white and inverted pixels reach, over those of good images"
        ),
        equalization=search.best.equalization > 0,
        float_layers=tuple(
            FloatLayer(layer=layer, cost_ms=cost) for layer, cost in zip(chosen.in_float, costs, strict=True)
        ),
    )
    layers = tuple(
        LayerSensitivity(
            layer=s.layer, map_error=s.error, gmac_share=s.gmac_share, left_float=s.layer in chosen.in_float
        )
        for s in sensitivity
    )
    return Quantized(chosen, record, layers, _image_warnings(search, inputs, spec))


def _fewest_in_float(search: Int8Search, assess: Callable[[Sequence[str]], Attempt]) -> Attempt | None:
    """The attempt with the fewest layers in float, those of the largest relief, that breaks no limit, if any."""
    names, share = [], 0.0
    for name in search.relief:
        if share + search.shares[name] <= MAX_FLOAT_SHARE:
            share += search.shares[name]
            names.append(name)
    most = len(names)
    found: Attempt | None = None
    failing, count = 0, 1
    while found is None and failing < most:
        count = min(count, most)
        attempt = assess(names[:count])
        if attempt.broken:
            failing, count = count, count * 2
        else:
            found = attempt
    while found is not None and len(found.in_float) - failing > 1:
        count = (len(found.in_float) + failing) // 2
        attempt = assess(names[:count])
        if attempt.broken:
            failing = count
        else:
            found = attempt
    return found


def _float_costs(
    search: Int8Search, open_: OpenGraph, spec: PreprocessSpec, whole: Attempt, chosen: Attempt
) -> list[float]:
    """What each layer left in float costs, in ms for an image in the target's engine, against INT8 throughout."""
    batch = np.full((1, spec.height, spec.width, 3), 128, np.uint8)
    costs = []
    for layer in chosen.in_float:
        engines = (whole.model.engine, open_(search.build([layer])).engine)
        before, after = time_engines(engines, batch, _TIMING_ROUNDS)
        costs.append(after.ms - before.ms)
    return costs


def _image_warnings(search: Int8Search, inputs: NetworkInputs, spec: PreprocessSpec) -> tuple[str, ...]:
    judged = coverage(search.statistics)
    warnings = []
    if judged.enough > len(inputs.batches):
        what = "calibration images" if spec.tiles is None else "tiles of calibration images"
        warnings.append(
            f"the INT8 ranges still grow by {judged.growth:.0%} from half of the {len(inputs.batches)} {what} "
            f"to all of them; about {judged.enough} would do"
        )
    if judged.odd:
        names = ", ".join(inputs.names[i] for i in judged.odd[:3])
        warnings.append(
            f"{_plural(judged.odd)} far beyond the others in the networks and widen the INT8 ranges for all: "
            f"{names}{', …' if len(judged.odd) > 3 else ''}. Leave out what is no good part"
        )
    return tuple(warnings)


def _plural(odd: Sequence[int]) -> str:
    return "1 calibration image reaches" if len(odd) == 1 else f"{len(odd)} calibration images reach"
