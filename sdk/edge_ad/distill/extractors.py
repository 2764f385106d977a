"""Frozen, pretrained feature extractors (the paper's Ψ), opened from a file or by name.

An extractor maps images to one or two feature layers, the finest at 1/8 of the image's size. Opening one
runs no code of its file; see :mod:`edge_ad.distill.torchscript` for what that takes there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edge_ad.distill.features import Features, InputRange
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

_KINDS = "a .safetensors (ResNet-50-v2), .tflite, .onnx, .pt or .ts (TorchScript) file, or torchvision:MODEL"


class Extractor(Protocol):
    """A frozen network that gives one or two layers of features.

    ``name`` says what it is; ``record`` what tells it from another one (hash of the file, layers, …).
    """

    @property
    def name(self) -> str: ...

    @property
    def record(self) -> dict[str, str]: ...

    def __call__(self, images: Sequence[Image]) -> Features:
        """Features of equally sized ``uint8 HxWx3`` RGB images, on the device where they were computed."""
        ...


@dataclass(frozen=True)
class ExtractorOptions:
    """How to open an extractor.

    ``layers`` are the tensors or outputs to tap (none: the file's own outputs, or the known network's
    layers); ``values`` the range of its input (None: the kind's default). ``device`` is ``cpu``, ``cuda``
    or ``cuda:N``. ``bf16`` lets networks that torch runs compute in bfloat16.
    """

    layers: tuple[str, ...] = ()
    values: InputRange | None = None
    device: str = "cpu"
    bf16: bool = True

    def __post_init__(self) -> None:
        if len(self.layers) > 2 or len(set(self.layers)) != len(self.layers) or "" in self.layers:
            raise InputError(f"layers '{','.join(self.layers)}': give one or two different names")


def open_extractor(source: str, options: ExtractorOptions | None = None) -> Extractor:
    """Open an extractor: a file, by the end of its name, or ``torchvision:MODEL[@WEIGHTS]``.

    Raises:
        InputError: the file is missing, damaged or of an unknown kind, or the options do not fit it.
        MissingExtra: a package that runs this kind is not installed.
    """
    options = options or ExtractorOptions()
    if source.startswith("torchvision:"):
        from edge_ad.distill.modules import open_torchvision

        return open_torchvision(source.removeprefix("torchvision:"), options)
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: there is no such extractor file; an extractor is {_KINDS}")
    match path.suffix.lower():
        case ".safetensors":
            from edge_ad.distill.resnet import ResNet50V2

            return ResNet50V2(path, options)
        case ".tflite":
            from edge_ad.distill.tflite import TfliteExtractor

            return TfliteExtractor(path, options)
        case ".onnx":
            from edge_ad.distill.onnx_graph import OnnxExtractor

            return OnnxExtractor(path, options)
        case ".pt" | ".ts":
            from edge_ad.distill.torchscript import TorchScriptExtractor

            return TorchScriptExtractor(path, options)
    raise InputError(f"{path}: an extractor is {_KINDS}")


def probe(extractor: Extractor, side: int) -> Features:
    """What the extractor gives for one grey image of ``side`` px: its layers, or a clear error at once.

    Raises:
        InputError: it takes no image of this size, or its outputs do not do.
    """
    return extractor([np.full((side, side, 3), 128, np.uint8)])


def file_record(path: Path, options: ExtractorOptions, values: str) -> dict[str, str]:
    """What identifies an extractor that is a file."""
    return {
        "extractor_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "extractor_layers": ",".join(options.layers),
        "extractor_input": values,
    }
