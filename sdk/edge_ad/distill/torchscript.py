"""Extractors from TorchScript files.

TorchScript is a program in a language of its own: no Python and no imports, but it can read and write files
(``torch.save``, ``torch.from_file``), and a class's ``__setstate__`` runs while the file is loaded. Such a
file is refused by its source, before anything is loaded, so that loading runs nothing and calling does
nothing but arithmetic. The pickles in the file are read by torch's C++ reader, which knows the file's own
TorchScript classes and tensors, and no Python.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_ad.distill.extractors import ExtractorOptions, file_record
from edge_ad.distill.features import Features, InputRange, input_batch, read_features
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

# All operators of torch 2.13 that take a file's name, or reach other processes; and what runs on loading.
_REFUSED = re.compile(rb"\b(__setstate__|save|from_file|load_tensor|rpc_\w+|PythonOp|IgnoredPythonOp)\b")
# Operators of other libraries or outside torch's core.
_FOREIGN = re.compile(rb"\bops\b(?!\.(?:aten|prim)\.)")


class TorchScriptExtractor:
    """A TorchScript module that maps ``float32 Nx3xHxW`` to feature maps.

    It returns a tensor, a tuple or list, or a dict of tensors. ``layers`` picks among them by number from 0,
    or by key.
    """

    def __init__(self, path: Path, options: ExtractorOptions) -> None:
        self.name = path.name
        self._values: InputRange = options.values or "imagenet"
        self._layers, self._device = options.layers, torch.device(options.device)
        data = path.read_bytes()
        _check_archive(path, data)
        try:
            # From the bytes that were checked, not from the file, which might change in between.
            module: Any = torch.jit.load(io.BytesIO(data), map_location=self._device)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise InputError(f"{path}: not a readable TorchScript file ({_first_line(error)})") from error
        self._module = module.eval()
        self.record = file_record(path, options, self._values)

    def __call__(self, images: Sequence[Image]) -> Features:
        batch = input_batch(images, self._values).to(self._device)
        with torch.inference_mode():
            try:
                result = self._module(batch)
            except RuntimeError as error:
                shape = "x".join(map(str, batch.shape))
                raise InputError(
                    f"{self.name}: fails on an input of {shape} (float32); it must take any number of images of "
                    f"this size: {str(error).strip().splitlines()[-1]}"
                ) from error
        return read_features(self._pick(_named(self.name, result)), *batch.shape[2:])

    def _pick(self, outputs: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
        missing = [name for name in self._layers if name not in outputs]
        if missing:
            raise InputError(
                f"{self.name}: returns no '{missing[0]}'; it returns {', '.join(outputs)}. A layer inside a "
                "TorchScript module cannot be tapped: export one that returns the layers"
            )
        return [(name, outputs[name]) for name in self._layers or outputs]


def _check_archive(path: Path, data: bytes) -> None:
    """Refuse what is no TorchScript archive, or one whose code does more than compute.

    Raises:
        InputError: it says why.
    """
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))  # the reader that loading uses, too
        records = reader.get_all_records()
        sources = [reader.get_record(name) for name in records if name.endswith(".py")]
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable TorchScript file ({_first_line(error)})") from error
    if not sources or "constants.pkl" not in records or "model.json" in records:
        raise InputError(
            f"{path}: not a TorchScript file (weights alone are not enough; save with torch.jit.save)"
        )
    for source in sources:
        if found := _REFUSED.search(source):
            raise InputError(
                f"{path}: its program uses '{found.group().decode()}', which can run code on loading or reach "
                "files and other processes; edge-ad does not load it"
            )
        if _FOREIGN.search(source):
            raise InputError(
                f"{path}: its program uses operators from outside torch's core; edge-ad refuses it"
            )


def _named(name: str, result: object) -> dict[str, Tensor]:
    if isinstance(result, Tensor):
        result = (result,)
    if isinstance(result, (tuple, list)):
        result = {str(i): item for i, item in enumerate(result)}
    if not isinstance(result, dict) or not all(isinstance(v, Tensor) for v in result.values()):
        raise InputError(f"{name}: must return a tensor, or a tuple, list or dict of tensors")
    return {str(k): v for k, v in result.items()}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
