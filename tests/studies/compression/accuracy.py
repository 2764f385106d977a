"""What each cut costs on real runs: compressed, quantized and measured as ``edge-ad convert`` does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx

from edge_ad.conversion import ConvertOptions, choose_images
from edge_ad.conversion.build import Builder, Built, Graphs, graphs
from edge_ad.conversion.compress import compress
from edge_ad.conversion.compression_images import compression_images
from edge_ad.conversion.damage import Damage
from edge_ad.conversion.measure import Measurement, Reference, broken_limits, measured_on
from edge_ad.conversion.model import ConvertedModel
from edge_ad.data import read_dataset
from edge_ad.describe import describe
from edge_ad.run_folder import open_run
from edge_ad_converters.compress import Compressor, Shape, full_shape
from edge_ad_converters.description import NetsDescription
from edge_ad_converters.ranges import RangeMethod
from edge_ad_converters.targets import target_form
from edge_ad_runtime.engines import open_engine
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import preprocess
from edge_ad_runtime.types import Image
from tests.studies.compression.cost import Cost, onnx_cost
from tests.studies.compression.cuts import AUTO, FUSED, Cut, trained_as
from tests.studies.compression.interpreters import STEP_NEEDS, find_python
from tests.studies.compression.plain_runs import plain_engine
from tests.studies.compression.rows import Figures, Pair
from tests.studies.compression.subjects import FLOAT, Subject
from tests.studies.peers.plain import export_plain

_DAMAGED_IMAGES = 24


@dataclass(frozen=True)
class Effort:
    """How much is done for each model: ``ranges`` of None tries all methods of INT8 ranges, ``steps`` of None takes
    the compressor's own number of distillation steps."""

    ranges: RangeMethod | None = None
    steps: int | None = None

    @property
    def options(self) -> ConvertOptions:
        """The conversion's. Forced: a model beyond the limits is a result too, and the record says so. All three
        engines compute the same integers, so onnxruntime measures for all."""
        return ConvertOptions(target="ort", force=True, sensitivity=False, ranges=self.ranges)


def measure(
    found: Subject, cuts: Sequence[Cut], effort: Effort, pythons: Sequence[Path] = ()
) -> Iterator[Figures]:
    """The figures of each cut, from an earlier time where there are some, else measured now.

    Args:
        found: the run and its data.
        cuts: what to do to it.
        effort: how much of it.
        pythons: interpreters with other projects' tools; a plain model whose tool none has is left out.

    Raises:
        EdgeAdError: the run cannot be opened, or its images do not do.
    """
    bench: _Bench | None = None
    for cut in cuts:
        made_by = repr((cut.key, cut.words, str(found.data), effort))
        kept = found.kept(cut.key, made_by)
        if kept is not None:
            figures = kept.figures
        else:
            print(f"== {found.name}: {cut.words}", flush=True)
            if cut.tool is not None and find_python(cut.tool, pythons) is None:
                print(
                    f"left out: no interpreter has {', '.join(STEP_NEEDS[cut.tool])} (--python)", flush=True
                )
                continue
            bench = bench or _Bench(found, effort, pythons)
            figures = bench.measure(cut)
            found.keep(cut.key, made_by, figures)
        if figures is not None:
            yield figures


class _Bench:
    """One run with its images read and its float nets measured, once for all cuts."""

    def __init__(self, found: Subject, effort: Effort, pythons: Sequence[Path]) -> None:
        self._found, self._effort, self._pythons = found, effort, pythons
        self._run = open_run(found.path)
        self._dataset = read_dataset(found.data)
        self._sets = choose_images(self._run, found.data, self._dataset, effort.options.seed)
        self._nets, self._form = describe(self._run.nets), target_form(effort.options.target)

    def measure(self, cut: Cut) -> Figures | None:
        """Compress, quantize, measure; None where nothing is cut."""
        label = ""
        if cut.tool is not None:
            return self._plain(cut, cut.tool)
        if cut is AUTO:
            label, built = self._automatic()
        elif cut.shape is None:
            built = self._builder.build(self._full, damage=self._damage)
        else:
            try:
                shape = cut.shape(self._nets, self._compressor.energy)
            except InputError as error:
                print(f"left out: {error}", flush=True)
                return None
            if shape == full_shape(self._nets):
                return None
            label = shape.label(full_shape(self._nets))
            cut = _named(cut, shape, self._nets)
            nets = self._compressor.compress(shape, self._effort.steps)
            built = self._builder.build(graphs(nets, self._form), damage=self._damage)
        self._found.save(cut.key, built.model)
        cost = onnx_cost(onnx.load_from_string(built.model.model))
        return self._figures(cut, built.measurement, cost, label, built.broken)

    def _plain(self, cut: Cut, tool: str) -> Figures:
        engine = plain_engine(self._found, tool, self._pythons)
        model = ConvertedModel(engine, "int8", b"", self._run.config.preprocess)
        model.fit(self._fit_images, self._run.config, self._effort.options)
        measurement = self._reference.compare(model, self._damage)
        broken = broken_limits(measurement, self._effort.options)
        return self._figures(cut, measurement, onnx_cost(export_plain(self._run.nets)), "", broken)

    def _figures(
        self, cut: Cut, measurement: Measurement, cost: Cost, label: str, broken: tuple[str, ...]
    ) -> Figures:
        own, words = trained_as(self._run.nets.architecture, self._run.config.size)
        # A run trained with a cut and only fused is a row that has the name of its training.
        fused = cut.key == FUSED.key and own != self._run.config.size
        a, b = measurement.reference, measurement.target
        return Figures(
            row=own if fused else f"{own}-{cut.row or cut.key}", words=words if fused else f"{words}, {cut.words}",
            model=cut.key, run=self._found.name, data=self._found.data.name, seed=self._run.config.seed,
            image_auroc=(a.image_auroc, b.image_auroc), aupro=(a.aupro, b.aupro),
            kinds=_kinds(measurement), cost=cost, shape=label, lost=measurement.lost, broken=broken,
        )  # fmt: skip

    def _automatic(self) -> tuple[str, Built]:
        """What ``--compress auto`` chooses, and in words."""
        options = replace(self._effort.options, compress="auto", compress_steps=self._effort.steps)
        found = compress(self._nets, self._full, self._builder_with(options))
        candidates = (found.record.uncompressed, *found.record.candidates)
        return next(c.label for c in candidates if c.chosen), found.built

    @cached_property
    def _full(self) -> Graphs:
        return graphs(self._nets, self._form)

    @cached_property
    def _builder(self) -> Builder:
        return self._builder_with(self._effort.options)

    def _builder_with(self, options: ConvertOptions) -> Builder:
        return Builder(self._run.config, self._form, self._sets, options, self._reference, self._fit_images)

    @cached_property
    def _fit_images(self) -> list[Image]:
        return [read_image(p) for p in self._sets.fit]

    @cached_property
    def _reference(self) -> Reference:
        model = self._full.plain.SerializeToString()
        spec = self._run.config.preprocess
        converted = ConvertedModel(open_engine("ort", model, "fp32"), "fp32", model, spec)
        converted.fit(self._fit_images, self._run.config, self._effort.options)
        self._found.save(FLOAT, converted)
        return Reference(converted, measured_on(self._dataset, (), self._sets.fit))

    @cached_property
    def _damage(self) -> Damage:
        """As a conversion with ``--compress`` looks for damage that is lost."""
        good = [preprocess(i, self._run.config.preprocess) for i in self._fit_images[:_DAMAGED_IMAGES]]
        return Damage(self._reference.model.engine, good, self._effort.options.seed + 2)

    @cached_property
    def _compressor(self) -> Compressor:
        seed = self._effort.options.seed
        return Compressor(self._nets, compression_images(self._sets, self._run.config, seed), seed)


def _named(cut: Cut, shape: Shape, nets: NetsDescription) -> Cut:
    """The cut under a name that says so where it keeps fewer directions than the nets have without meaning to."""
    most = full_shape(nets).st_directions
    if not shape.st_directions == most < len(nets.teacher[-1].bias):
        return cut
    return replace(cut, row=f"{cut.key}-of-{most}", words=f"{cut.words}, {most} directions")


def _kinds(measurement: Measurement) -> dict[str, Pair]:
    """The image AUROC of each kind of defect against the good images, before and after."""
    return {k.kind: (k.float_auroc, k.target_auroc) for k in measurement.kinds}
