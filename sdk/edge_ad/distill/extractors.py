"""Frozen, ImageNet-trained feature extractors (the paper's Ψ), read without running code from a file.

An extractor maps images to two feature layers at 1/8 and 1/16 of the image's size;
:func:`patch_features` joins them as PatchCore does (arXiv 2106.08265, section 3.1).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from edge_ad.nets.model import normalize, to_tensor
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.types import Image

# Residual units by stage, and the batch norms' epsilon (arXiv 1512.03385, Table 1; the data file's description).
_UNITS = {1: 3, 2: 4, 3: 6}
_EPSILON = 1e-5


class Extractor(Protocol):
    """A frozen network that gives two layers of features."""

    name: str

    def __call__(self, images: list[Image]) -> tuple[Tensor, Tensor]:
        """Features of equally sized ``uint8 HxWx3`` RGB images.

        Returns ``float32 NxC1x(H/8)x(W/8)`` and ``float32 NxC2x(H/16)x(W/16)``.
        """
        ...


def open_extractor(path: Path) -> Extractor:
    """Open an extractor's file: ``.safetensors`` (a ResNet-50-v2) or ``.tflite`` (a MobileNetV2).

    Raises:
        InputError: the file is missing, or is none of the two.
        MissingExtra: a package that reads this format is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such extractor file")
    if path.suffix == ".safetensors":
        return ResNet50V2(path)
    if path.suffix == ".tflite":
        return LiteRtMobileNetV2(path)
    raise InputError(f"{path}: an extractor is a .safetensors (ResNet-50-v2) or a .tflite (MobileNetV2) file")


def patch_features(fine: Tensor, coarse: Tensor) -> Tensor:
    """Join two layers into one descriptor for each cell of the finer grid.

    Each layer is averaged over 3x3 cells, the coarse one resized bilinearly to the fine grid.

    Args:
        fine: ``float32 NxC1xhxw``.
        coarse: ``float32 NxC2xh'xw'``.

    Returns:
        ``float32 Nx(C1+C2)xhxw``.
    """
    fine, coarse = (F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) for x in (fine, coarse))
    coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat((fine, coarse), 1)


class ResNet50V2:
    """Stem and stages 1 to 3 of a pre-activation ResNet-50 (arXiv 1603.05027), from a safetensors file.

    The file has the tensor names of the ONNX model zoo's ``resnet50-v2`` (``stage2_conv0_weight``, …).
    Gives the outputs of stages 2 and 3: 512 channels at 1/8, 1024 at 1/16.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            raw = load_file(str(path))
        except Exception as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from error
        self._weights = {_plain_name(k): v.float() for k, v in raw.items()}
        missing = [
            k for k in ("conv0", "stage1_conv0", "stage3_conv18") if k + "_weight" not in self._weights
        ]
        if missing:
            raise InputError(f"{path}: not a ResNet-50-v2 (no tensors {', '.join(missing)})")

    def __call__(self, images: list[Image]) -> tuple[Tensor, Tensor]:
        batch = normalize(to_tensor(np.stack(images)))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            x = batch.contiguous(memory_format=torch.channels_last)
            x = self._conv("conv0", self._norm("batchnorm0", x), stride=2, padding=3)
            x = F.max_pool2d(F.relu(self._norm("batchnorm1", x)), 3, 2, padding=1)
            x = self._stage(1, x, stride=1)
            fine = self._stage(2, x, stride=2)
            coarse = self._stage(3, fine, stride=2)
        return fine.float(), coarse.float()

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
        return F.conv2d(x, self._weights[f"{name}_weight"], stride=stride, padding=padding)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        w = self._weights
        return F.batch_norm(
            x, w[f"{name}_running_mean"], w[f"{name}_running_var"], w[f"{name}_gamma"], w[f"{name}_beta"],
            eps=_EPSILON,
        )  # fmt: skip


def _plain_name(name: str) -> str:
    """Drop the exporter's prefix (``resnetv24_``) from a tensor's name."""
    return name.split("_", 1)[1] if name.startswith("resnetv") else name


class LiteRtMobileNetV2:
    """A MobileNetV2 as a TFLite file, run by LiteRT; taps two of its inner tensors.

    Gives ``expanded_conv_7/expand`` (192 channels at 1/8) and ``expanded_conv_13/expand`` (576 at 1/16),
    dequantized.
    """

    TAPS = ("expanded_conv_7/expand/", "expanded_conv_13/expand/")

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise MissingExtra("ai-edge-litert", "tflite", "a .tflite extractor") from error
        self.name = path.name
        try:
            self._interpreter: Any = Interpreter(
                str(path),
                experimental_preserve_all_tensors=True,
                # A delegate would keep the inner tensors to itself.
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                num_threads=torch.get_num_threads(),
            )
        except ValueError as error:
            raise InputError(f"{path}: not a readable TFLite file ({error})") from error
        self._shape: tuple[int, ...] = ()
        self._taps: list[dict[str, Any]] = []

    def __call__(self, images: list[Image]) -> tuple[Tensor, Tensor]:
        features: tuple[list[Tensor], list[Tensor]] = ([], [])
        for image in images:
            self._resize(image.shape)
            entry = self._interpreter.get_input_details()[0]
            self._interpreter.set_tensor(entry["index"], image[None])
            self._interpreter.invoke()
            for out, tap in zip(features, self._taps, strict=True):
                scale, zero = tap["quantization"]
                raw = self._interpreter.get_tensor(tap["index"]).astype(np.float32)
                out.append(torch.from_numpy((raw - zero) * scale).permute(0, 3, 1, 2))
        return torch.cat(features[0]), torch.cat(features[1])

    def _resize(self, shape: tuple[int, ...]) -> None:
        if shape == self._shape:
            return
        entry = self._interpreter.get_input_details()[0]
        self._interpreter.resize_tensor_input(entry["index"], [1, *shape])
        self._interpreter.allocate_tensors()
        details = self._interpreter.get_tensor_details()
        self._taps = []
        for tap in self.TAPS:
            # The activation is the only four-dimensional tensor of that name with batch size 1.
            found = [d for d in details if tap in d["name"] and len(d["shape"]) == 4 and d["shape"][1] > 4]
            if not found:
                raise InputError(f"{self.name}: has no tensor '{tap}…'; it is not a MobileNetV2")
            if len(found) > 1:
                warnings.warn(f"{self.name}: several tensors named '{tap}…', the last is used", stacklevel=2)
            self._taps.append(found[-1])
        self._shape = shape
