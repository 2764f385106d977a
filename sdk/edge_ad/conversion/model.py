"""A converted model on this workstation: the engine, the preprocessing and a calibration."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from edge_ad.conversion.options import ConvertOptions
from edge_ad.run_folder import RunConfig
from edge_ad_calibration.fit import fit_calibration
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import Engine, Precision, RawMaps, Target, open_engine
from edge_ad_runtime.engines.tiled import whole_image_engine
from edge_ad_runtime.errors import MissingExtra
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.types import Image


class ConvertedModel:
    """Scores camera images as the device will; satisfies the evaluation's Scorer once fitted.

    ``engine``, given one of ``spec.network_size``, computes whole images. ``recorded`` keeps the raw maps of each
    image since it was last cleared, in their order.
    """

    def __init__(self, engine: Engine, precision: Precision, model: bytes, spec: PreprocessSpec) -> None:
        self.engine = whole_image_engine(engine, spec)
        self.precision, self.model, self.spec = precision, model, spec
        self.recorded: list[RawMaps] = []
        self._calibration: Calibration | None = None

    @property
    def calibration(self) -> Calibration:
        """The fitted calibration."""
        assert self._calibration is not None
        return self._calibration

    def raw_maps(self, image: Image) -> RawMaps:
        """Raw maps of a camera image, ``uint8 HxWx3`` RGB."""
        maps = self.engine.run(preprocess(image, self.spec))
        self.recorded.append(maps)
        return maps

    def fit(self, images: Sequence[Image], trained: RunConfig, options: ConvertOptions) -> None:
        """Fit quantiles and threshold by running the engine on good camera images."""
        maps = [self.raw_maps(i) for i in tqdm(images, desc=f"calibrate ({self.engine.name})", leave=False)]
        self._calibration = fit_calibration(
            maps,
            bundle="",
            source=f"{len(images)} held-out good images at conversion",
            false_reject_rate=options.false_reject_rate,
            threshold=options.threshold,
            score=options.score or trained.score,
            mix=options.mix or trained.mix,
            background=trained.background if options.background is None else options.background,
        )
        self.recorded.clear()


def host_engine(target: Target, model: bytes, precision: Precision) -> tuple[Engine, str | None]:
    """The target's engine on this workstation; for TensorRT, where it is missing, onnxruntime and a word on that.

    Raises:
        MissingExtra: the engine is not installed and nothing computes in its place.
        BundleError: the engine refuses the model.
    """
    try:
        return open_engine(target, model, precision), None
    except MissingExtra as error:
        if target != "tensorrt":
            raise
        engine = open_engine("ort", model, precision)
        return engine, (
            f"TensorRT does not run on this workstation ({error}). {engine.name} computed the same graph in its "
            "place: quantiles, threshold, figures and golden samples are its. Run `edge-ad verify` on the device, "
            "which compares TensorRT with them, and recalibrate there."
        )
