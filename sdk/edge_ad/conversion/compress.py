"""``--compress``: the nets with less arithmetic, as far as the limits allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from edge_ad.conversion.build import Builder, Built, Graphs, graphs
from edge_ad.conversion.compression_images import compression_images
from edge_ad.conversion.damage import Damage
from edge_ad.conversion.measure import Measurement
from edge_ad.conversion.timing import EngineTime, time_engines
from edge_ad.report.model import Compression, CompressionCandidate, Side, defined
from edge_ad_converters.compress import (
    Compressor,
    Energy,
    Shape,
    full_shape,
    ladder,
    shape_for,
    shape_gmac,
)
from edge_ad_converters.description import NetsDescription
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.preprocess import preprocess

# Each shows five kinds of damage, tens of thousands of cells in all.
_DAMAGED_IMAGES = 24
_TIMING_ROUNDS = 20
UNCOMPRESSED = "uncompressed"
ADVICE = "try --compress auto or a larger share of the arithmetic"


@dataclass(frozen=True)
class Trial:
    """A compressed net in float: its graph, its figures, and the limits that it breaks."""

    label: str
    graphs: Graphs
    measurement: Measurement
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Compressed:
    """What to write and how it came about."""

    built: Built
    record: Compression
    warnings: tuple[str, ...]


def compress(nets: NetsDescription, full: Graphs, builder: Builder) -> Compressed:
    """Compress as the options ask, measure, and build the final form.

    With a share of the arithmetic, the mildest shape that needs no more. With ``auto``, the cheapest of the
    ladder's shapes that breaks no limit, neither in float nor in its final form, all layers in that; if there is
    none, the nets as they are.

    Args:
        nets: what to compress.
        full: their graph.
        builder: measures against the nets as they are, and builds.

    Raises:
        InputError: the share is out of reach, or its shape breaks a limit and nobody insists.
    """
    options = builder.options
    auto = options.compress == "auto"
    damage = _damage(builder)
    trials = sorted(_trials(nets, builder, damage), key=lambda t: t.graphs.gmac)
    found: dict[int, Built] = {}
    chosen: int | None = None
    if auto:
        for i, trial in enumerate(trials):
            if chosen is None and not trial.broken:
                # A shape with layers in float is no faster than the next one without.
                found[i] = builder.build(trial.graphs, damage=damage, mend=False)
                chosen = None if found[i].broken else i
    else:
        (trial,) = trials
        if trial.broken and not options.force:
            raise InputError(
                f"compressed to {trial.label}, the model breaks a limit in float already: "
                f"{'; '.join(trial.broken)}. The bundle is not written; {ADVICE}, or insist with --force"
            )
        found[0] = builder.build(trial.graphs, damage=damage)
        chosen = 0
    whole = builder.build(full) if chosen is None else None
    times = _times(full, trials, found, whole, builder)
    kept = (
        f"--compress auto: each of the {len(trials)} compressed forms breaks a limit, so the bundle is not "
        "compressed; its report says which limits"
    )
    built = whole if chosen is None else found[chosen]
    assert built is not None
    record = _record(full, trials, found, chosen, times, built.measurement.reference, builder)
    return Compressed(built, record, (kept,) if chosen is None else ())


def _damage(builder: Builder) -> Damage:
    """On images that nothing is fitted on but quantiles and threshold, with squares of a seed of their own."""
    spec = builder.config.preprocess
    good = [preprocess(i, spec) for i in builder.fit_images[:_DAMAGED_IMAGES]]
    return Damage(builder.reference.model.engine, good, builder.options.seed + 2)


def _shapes(nets: NetsDescription, wanted: float | str | None, energy: Energy) -> list[Shape]:
    """The shapes to try."""
    if isinstance(wanted, str):
        return list(ladder(nets, energy))
    assert wanted is not None
    return [shape_for(nets, wanted, energy)]


def _trials(nets: NetsDescription, builder: Builder, damage: Damage) -> list[Trial]:
    """Each shape compressed and measured in float, the cheapest first; the nets are looked at once."""
    options, own = builder.options, full_shape(nets)
    images = compression_images(builder.sets, builder.config, options.seed)
    with tqdm(bar_format="{desc} ({elapsed})", leave=False) as status:
        prefix = ""

        def tell(what: str) -> None:
            status.set_description_str(prefix + what)

        compressor = Compressor(nets, images, options.seed, tell)
        shapes = _shapes(nets, options.compress, compressor.energy)
        shapes.sort(key=lambda s: shape_gmac(nets, s))

        def attempt(number: int, steps: int | None) -> Trial:
            nonlocal prefix
            shape = shapes[number]
            label = shape.label(own)
            prefix = f"{number + 1} of {len(shapes)} ({label}): "
            graph = graphs(compressor.compress(shape, steps), builder.form)
            tell("measure in float")
            label += ", recovered" if steps != 0 else ""
            return Trial(label, graph, *builder.measure_float(graph, damage))

        if options.compress_steps is not None or len(shapes) == 1:
            return [attempt(i, options.compress_steps) for i in range(len(shapes))]
        # Recovery takes minutes and lifts a shape by little: it is for those that it may decide about.
        trials = [attempt(i, 0) for i in range(len(shapes))]
        passing = next((i for i, t in enumerate(trials) if not t.broken), len(trials) - 1)
        for i in range(max(0, passing - 1), passing + 1):
            trials[i] = attempt(i, None)
        return trials


def _times(
    full: Graphs, trials: Sequence[Trial], found: dict[int, Built], whole: Built | None, builder: Builder
) -> list[EngineTime]:
    """Of the uncompressed final form, then of each trial's, in one interleaved run."""
    models = [whole.model if whole is not None else builder.as_fast(full)]
    models += [found[i].model if i in found else builder.as_fast(t.graphs) for i, t in enumerate(trials)]
    spec = builder.config.preprocess
    grey = np.full((1, spec.height, spec.width, 3), 128, np.uint8)
    return time_engines([m.engine for m in models], grey, _TIMING_ROUNDS)


def _record(
    full: Graphs,
    trials: Sequence[Trial],
    found: dict[int, Built],
    chosen: int | None,
    times: Sequence[EngineTime],
    reference: Side,
    builder: Builder,
) -> Compression:
    runs, asked = builder.runs_per_image, builder.options.compress

    def candidate(graphs: Graphs, time: EngineTime, side: Side, **fields: Any) -> CompressionCandidate:
        return CompressionCandidate(
            gmac=graphs.gmac * runs,
            share=graphs.gmac / full.gmac,
            parameters=graphs.parameters,
            image_auroc=side.image_auroc,
            aupro=side.aupro,
            latency_ms=time.ms,
            latency_ratio=time.ratio,
            **fields,
        )

    return Compression(
        asked="auto" if isinstance(asked, str) else f"{asked:g}",
        uncompressed=candidate(full, times[0], reference, label=UNCOMPRESSED, chosen=chosen is None),
        candidates=tuple(
            candidate(
                trial.graphs,
                times[i + 1],
                trial.measurement.target,
                label=trial.label,
                kinds=trial.measurement.kinds,
                good_map_correlation=defined(trial.measurement.good_map_correlation),
                lost=trial.measurement.lost,
                broken=trial.broken,
                target_broken=found[i].broken if i in found else None,
                chosen=i == chosen,
            )
            for i, trial in enumerate(trials)
        ),
    )
