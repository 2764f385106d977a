"""anomalib's own OpenVINO export of a checkpoint, float and INT8 (``int8_ptq``).

For an interpreter that has anomalib, nncf and openvino; :mod:`tests.studies.anomalib_import` says how to install
anomalib beside a CPU build of torch. The calibration images are the study's own, already of the input's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cv2

from edge_ad_runtime.types import Image
from tests.studies.anomalib_import import declare_operators
from tests.studies.peers.models import Made, Model


def make(checkpoint: Path, calibration: Sequence[Image], folder: Path) -> Made:
    """Export the checkpoint; ``calibration`` are ``uint8 1xHxWx3`` batches."""
    library = declare_operators()
    from anomalib.data import Folder  # type: ignore[import-not-found,unused-ignore]
    from anomalib.deploy import CompressionType  # type: ignore[import-not-found,unused-ignore]
    from anomalib.models import EfficientAd  # type: ignore[import-not-found,unused-ignore]

    images = folder / "anomalib-images"
    images.mkdir(parents=True, exist_ok=True)
    for i, batch in enumerate(calibration):
        assert cv2.imwrite(str(images / f"{i:04d}.png"), cv2.cvtColor(batch[0], cv2.COLOR_RGB2BGR))
    # The export calibrates on the validation images: here the test images, which are those of the folder.
    data = Folder(
        name="peers", root=images, normal_dir=".", normal_test_dir=".", val_split_mode="same_as_test",
        train_batch_size=1, eval_batch_size=1, num_workers=0,
    )  # fmt: skip
    model = EfficientAd.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    size = calibration[0].shape[1:3]
    models = []
    for precision, options in (
        ("fp32", {}),
        ("int8", {"compression_type": CompressionType.INT8_PTQ, "datamodule": data}),
    ):
        file = Path(model.to_openvino(folder, f"anomalib-{precision}", input_size=size, **options))
        for suffix, settings in (("", {}), (", f32 hint", {"INFERENCE_PRECISION_HINT": "f32"})):
            models.append(
                Model(
                    name=f"anomalib {precision}, openvino{suffix}", graph="anomalib", engine="openvino",
                    precision="int8" if precision == "int8" else "fp32",
                    tool=f"anomalib {version('anomalib')}, nncf {version('nncf')}",
                    file=str(file.relative_to(folder)),
                    bytes=file.stat().st_size + file.with_suffix(".bin").stat().st_size, settings=settings,
                )
            )  # fmt: skip
    del library
    return Made(tuple(models))
