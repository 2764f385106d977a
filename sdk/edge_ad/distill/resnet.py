"""The stem and stages 1 to 3 of a pre-activation ResNet-50 from a safetensors file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from edge_ad.distill.extractors import ExtractorOptions, file_record
from edge_ad.distill.features import Features, input_batch, read_features
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

# Residual units by stage, and the batch norms' epsilon (arXiv 1512.03385, Table 1; the data file's description).
_UNITS = {1: 3, 2: 4, 3: 6}
_EPSILON = 1e-5


class ResNet50V2:
    """Stem and stages 1 to 3 of a pre-activation ResNet-50 (arXiv 1603.05027), from a safetensors file.

    The file has the tensor names of the ONNX model zoo's ``resnet50-v2`` (``stage2_conv0_weight``, …).
    Gives the outputs of stages 2 and 3: 512 channels at 1/8, 1024 at 1/16.
    """

    def __init__(self, path: Path, options: ExtractorOptions) -> None:
        if options.layers or options.values not in (None, "imagenet"):
            raise InputError(f"{path}: a ResNet-50-v2 has its own layers and input range; leave both out")
        self.name = path.name
        self._device, self._bf16 = torch.device(options.device), options.bf16
        try:
            raw = load_file(str(path))
        except Exception as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from error
        self.weights = {_plain_name(k): v.float().to(self._device) for k, v in raw.items()}
        missing = [k for k in ("conv0", "stage1_conv0", "stage3_conv18") if k + "_weight" not in self.weights]
        if missing:
            raise InputError(f"{path}: not a ResNet-50-v2 (no tensors {', '.join(missing)})")
        self.record = file_record(path, options, "imagenet")

    def __call__(self, images: Sequence[Image]) -> Features:
        batch = input_batch(images, "imagenet").to(self._device)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            x = batch.contiguous(memory_format=torch.channels_last)
            x = self._conv("conv0", self._norm("batchnorm0", x), stride=2, padding=3)
            x = F.max_pool2d(F.relu(self._norm("batchnorm1", x)), 3, 2, padding=1)
            x = self._stage(1, x, stride=1)
            fine = self._stage(2, x, stride=2)
            coarse = self._stage(3, fine, stride=2)
        return read_features([("stage2", fine), ("stage3", coarse)], *batch.shape[2:])

    def _stage(self, stage: int, x: Tensor, stride: int) -> Tensor:
        prefix = f"stage{stage}_"
        conv = norm = 0
        for unit in range(_UNITS[stage]):
            step = stride if unit == 0 else 1
            h = F.relu(self._norm(f"{prefix}batchnorm{norm}", x))
            y = self._conv(f"{prefix}conv{conv}", h)
            y = F.relu(self._norm(f"{prefix}batchnorm{norm + 1}", y))
            y = self._conv(f"{prefix}conv{conv + 1}", y, stride=step, padding=1)
            y = F.relu(self._norm(f"{prefix}batchnorm{norm + 2}", y))
            y = self._conv(f"{prefix}conv{conv + 2}", y)
            x = y + (self._conv(f"{prefix}conv{conv + 3}", h, stride=step) if unit == 0 else x)
            conv, norm = conv + (4 if unit == 0 else 3), norm + 3
        return x

    def _conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.weights[f"{name}_weight"], stride=stride, padding=padding)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        w = self.weights
        return F.batch_norm(
            x, w[f"{name}_running_mean"], w[f"{name}_running_var"], w[f"{name}_gamma"], w[f"{name}_beta"],
            eps=_EPSILON,
        )  # fmt: skip


def _plain_name(name: str) -> str:
    """Drop the exporter's prefix (``resnetv24_``) from a tensor's name."""
    return name.split("_", 1)[1] if name.startswith("resnetv") else name
