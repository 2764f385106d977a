"""Does an imported checkpoint give anomalib's own maps? Trained, saved and loaded by anomalib itself.

It needs anomalib beside edge-ad, in a virtual environment of its own:

    python -m venv --system-site-packages STUDY          (from the environment that has edge-ad[host])
    STUDY/bin/pip install --no-deps anomalib==2.7.0 torchvision==0.28.0
    STUDY/bin/pip install lightning torchmetrics kornia timm freia omegaconf jsonargparse[signatures] rich-argparse \
        imagecodecs pandas platformdirs einops docstring-parser
    PYTHONPATH=sdk:converters:runtime:calibration STUDY/bin/python tests/studies/anomalib_import.py FOLDER

FOLDER gets images, teachers with random weights where anomalib looks for its own, and the checkpoints. For each size,
padded and not, EfficientAd is trained for one step and validated by anomalib's Engine, and saved by Lightning's
``save_checkpoint``. Printed is the largest deviation of the maps, relative to the largest value of anomalib's.
torchvision without its compiled operators, as beside a CPU build of torch, is enough.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_ad.importing.anomalib import read_checkpoint
from edge_ad.importing.archive import open_torch_file
from edge_ad.nets.model import EfficientAdNets, normalize
from edge_ad_runtime.calibration import PAPER_MIX, Quantiles
from edge_ad_runtime.scoring import combine_maps

_OPERATORS = (
    "nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d", "_roi_align_backward",
    "_roi_pool_backward", "_ps_roi_align_backward", "_ps_roi_pool_backward", "_deform_conv2d_backward",
)  # fmt: skip
_STEPS = 1
_BORDER = 4


def declare_operators() -> Any:
    """Names for the operators that torchvision registers on import; EfficientAd calls none of them."""
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        library.define(f"{name}(Tensor a) -> Tensor")
    return library


def write_images(folder: Path) -> None:
    """Blurred noise as good images, defects and penalty images."""
    rng = np.random.default_rng(0)
    for name, count in (("good", 5), ("bad", 2), ("penalty/one", 2)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{i:03d}.png"), cv2.resize(noise, (300, 280)))


def write_checkpoint(folder: Path, size: str, padding: bool, image_size: tuple[int, int]) -> Path:
    """Train for a few steps with anomalib and save what Lightning saves."""
    from anomalib.data import Folder  # type: ignore[import-not-found]
    from anomalib.engine import Engine  # type: ignore[import-not-found]
    from anomalib.models import EfficientAd  # type: ignore[import-not-found]
    from anomalib.models.image.efficient_ad import torch_model  # type: ignore[import-not-found]
    from anomalib.utils.path import get_pretrained_weights_dir  # type: ignore[import-not-found]

    torch.manual_seed(0)
    own = {
        "small": torch_model.SmallPatchDescriptionNetwork,
        "medium": torch_model.MediumPatchDescriptionNetwork,
    }
    weights = get_pretrained_weights_dir() / "efficientad_pretrained_weights"
    weights.mkdir(parents=True, exist_ok=True)
    torch.save(own[size](out_channels=384).state_dict(), weights / f"pretrained_teacher_{size}.pth")
    model = EfficientAd(
        imagenet_dir=folder / "penalty",
        model_size=size,
        padding=padding,
        pre_processor=EfficientAd.configure_pre_processor(image_size),
    )
    data = Folder(
        name="study", root=folder, normal_dir="good", abnormal_dir="bad", train_batch_size=1, num_workers=0,
        val_split_mode="same_as_test",
    )  # fmt: skip
    engine = Engine(
        max_steps=_STEPS, accelerator="cpu", default_root_dir=str(folder / "results"), logger=False
    )
    engine.fit(model, datamodule=data)
    engine.trainer.validate(model, datamodule=data, verbose=False)  # fits the quantiles
    out = folder / f"{size}{'_padded' if padding else ''}_{image_size[1]}x{image_size[0]}.ckpt"
    engine.trainer.save_checkpoint(out)
    return out


def our_nets(path: Path) -> EfficientAdNets:
    """The nets of the checkpoint as the import builds them."""
    with open_torch_file(path, path.name) as file:
        foreign = read_checkpoint(file)
    assert foreign.image_size is not None and foreign.padded is not None
    assert foreign.teacher_mean is not None and foreign.teacher_std is not None
    nets = EfficientAdNets(foreign.architecture, foreign.image_size, foreign.padded)
    for name, state in foreign.nets.items():
        getattr(nets, name).load_state_dict(state)
    nets.teacher_mean.copy_(foreign.teacher_mean)
    nets.teacher_std.copy_(foreign.teacher_std)
    return nets.eval()


def deviations(path: Path) -> dict[str, float]:
    """Largest relative deviation of the raw maps, the enlarged ones, and the combined one."""
    from anomalib.models import EfficientAd

    theirs: Any = EfficientAd.load_from_checkpoint(path).model.eval()
    nets = our_nets(path)
    height, width = nets.input_size
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = nets(normalize(image))
        student, distance = theirs.compute_student_teacher_distance(image)
        autoencoder = theirs.ae(image, image.shape[-2:])
        raw = (distance.mean(1), ((autoencoder - student[:, theirs.teacher_out_channels :]) ** 2).mean(1))
        enlarged = theirs.get_maps(image, normalize=False)
        combined = theirs(image).anomaly_map
    large = [_enlarge(m, (height, width)) for m in ours]
    q = {name: float(value.detach()) for name, value in theirs.quantiles.items()}
    own = combine_maps(large[0].numpy()[0], large[1].numpy()[0], Quantiles(**q), PAPER_MIX)
    return {
        "raw st": _deviation(ours[0], raw[0]),
        "raw ae": _deviation(ours[1], raw[1]),
        "enlarged st": _deviation(large[0], enlarged[0][:, 0]),
        "enlarged ae": _deviation(large[1], enlarged[1][:, 0]),
        "combined": _deviation(torch.from_numpy(own), combined[0, 0]),
    }


def _enlarge(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """As anomalib does by default: a border of zeros, then bilinear."""
    padded = F.pad(raw[:, None], (_BORDER,) * 4)
    return F.interpolate(padded, size=size, mode="bilinear")[:, 0]


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # where anomalib looks for its teachers
    torch.set_num_threads(1)
    library = declare_operators()
    write_images(folder)
    for size, padding, image_size in (
        ("small", False, (256, 256)),
        ("small", True, (256, 256)),
        ("small", False, (256, 320)),
        ("medium", False, (256, 256)),
    ):
        found = deviations(write_checkpoint(folder, size, padding, image_size))
        print(
            size,
            "padded" if padding else "",
            f"{image_size[1]}x{image_size[0]}",
            *(f"{k} {v:.1e}" for k, v in found.items()),
            flush=True,
        )
    del library


if __name__ == "__main__":
    main()
