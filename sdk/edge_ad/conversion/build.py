"""From described nets to a calibrated and measured model in the target's engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from edge_ad.conversion.damage import Damage
from edge_ad.conversion.images import ImageSets
from edge_ad.conversion.inputs import network_inputs
from edge_ad.conversion.measure import Measurement, Reference, broken_limits
from edge_ad.conversion.model import ConvertedModel, host_engine
from edge_ad.conversion.options import ConvertOptions
from edge_ad.conversion.quantize import Quantized, quantize
from edge_ad.run_folder import RunConfig
from edge_ad_converters.cost import gmac
from edge_ad_converters.description import NetsDescription
from edge_ad_converters.fuse import fuse
from edge_ad_converters.graph import convolutions, differences, parts
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.onnx_qdq import quantize_onnx
from edge_ad_converters.ranges import find_range, observe
from edge_ad_converters.targets import TargetForm, in_half_precision
from edge_ad_runtime.engines import open_engine
from edge_ad_runtime.types import Image

# Ranges decide what INT8 computes, not how long it takes.
_ROUGH_IMAGES = 2


@dataclass(frozen=True)
class Graphs:
    """The fused float graph: ``plain``, and ``graph`` in the kind that the target's form wants."""

    plain: onnx.ModelProto
    graph: onnx.ModelProto

    @property
    def gmac(self) -> float:
        """Multiply-accumulates of a run, in units of 1e9."""
        return gmac(self.plain)

    @property
    def parameters(self) -> int:
        """Numbers in the graph's weights and biases."""
        return sum(
            onnx.numpy_helper.to_array(i).size
            for i in self.plain.graph.initializer
            if i.data_type == onnx.TensorProto.FLOAT
        )


def graphs(nets: NetsDescription, form: TargetForm) -> Graphs:
    """Fuse and export."""
    plain = export_onnx(fuse(nets))
    return Graphs(plain, export_onnx(fuse(nets, centred=True)) if form.centred else plain)


@dataclass(frozen=True)
class Built:
    """A model in its final form, what it was measured to do, and the limits that it breaks."""

    graphs: Graphs
    model: ConvertedModel
    measurement: Measurement
    broken: tuple[str, ...]
    quantized: Quantized | None


class Builder:
    """Builds and judges any number of models against one reference.

    Args:
        config: the run's.
        form: the target's.
        sets: the images.
        options: what was asked for.
        reference: the float model's results.
        fit_images: the camera images of ``sets.fit``.
    """

    def __init__(
        self,
        config: RunConfig,
        form: TargetForm,
        sets: ImageSets,
        options: ConvertOptions,
        reference: Reference,
        fit_images: Sequence[Image],
    ) -> None:
        self.config, self.form, self.sets, self.options = config, form, sets, options
        self.reference, self.fit_images = reference, fit_images

    @property
    def runs_per_image(self) -> int:
        """How often the graph runs for an image: once for each tile."""
        grid = self.config.preprocess.grid
        return 1 if grid is None else len(grid)

    def measure_float(self, graphs: Graphs, damage: Damage) -> tuple[Measurement, tuple[str, ...]]:
        """The float graph's figures in onnxruntime, where the reference's come from, and the limits that it breaks."""
        model = graphs.plain.SerializeToString()
        engine = open_engine("ort", model, "fp32")
        return self._judge(ConvertedModel(engine, "fp32", model, self.config.preprocess), damage)

    def build(self, graphs: Graphs, *, damage: Damage | None = None, mend: bool = True) -> Built:
        """The final form.

        Args:
            graphs: the float graph.
            damage: judges by that, too.
            mend: leave layers in float where a limit breaks.

        Raises:
            DataError: all calibration images look alike.
        """
        spec, options = self.config.preprocess, self.options
        if options.precision != "int8":
            model = self._open(self._float_file(graphs))
            return Built(graphs, model, *self._judge(model, damage), None)
        quantized = quantize(
            graphs.graph,
            self.form,
            self.sets,
            spec,
            options,
            lambda g: self._open(self.form.encode(g)),
            lambda model: self._judge(model, damage),
            mend=mend,
        )
        attempt = quantized.attempt
        return Built(graphs, attempt.model, attempt.measurement, attempt.broken, quantized)

    def as_fast(self, graphs: Graphs) -> ConvertedModel:
        """A model that takes as long as the final form and tells little else: in INT8, its ranges are rough."""
        if self.options.precision != "int8":
            return self._open(self._float_file(graphs))
        images = network_inputs(self.sets.ranges[:_ROUGH_IMAGES], self.config.preprocess).batches
        rounded = list(parts(graphs.graph))
        read = [n.input[0] for n in convolutions(graphs.graph)]
        seen = observe(graphs.graph, [*rounded, *differences(graphs.graph), *read], images)
        ranges = {name: find_range(seen[name], "min-max") for name in rounded}
        means = {name: s.channel_mean for name, s in seen.items()}
        return self._open(
            self.form.encode(quantize_onnx(graphs.graph, ranges, means, scheme=self.form.scheme))
        )

    def _float_file(self, graphs: Graphs) -> bytes:
        half = self.options.precision == "fp16" and self.options.target == "openvino"
        return self.form.encode(in_half_precision(graphs.graph) if half else graphs.graph)

    def _open(self, model: bytes) -> ConvertedModel:
        engine, _ = host_engine(self.options.target, model, self.options.precision)
        return ConvertedModel(engine, self.options.precision, model, self.config.preprocess)

    def _judge(self, model: ConvertedModel, damage: Damage | None) -> tuple[Measurement, tuple[str, ...]]:
        model.fit(self.fit_images, self.config, self.options)
        measurement = self.reference.compare(model, damage)
        return measurement, broken_limits(measurement, self.options)
