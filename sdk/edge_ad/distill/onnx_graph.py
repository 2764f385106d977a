"""Extractors from ONNX files, run by onnxruntime."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edge_ad.distill.extractors import ExtractorOptions, file_record
from edge_ad.distill.features import Features, InputRange, input_batch, read_features
from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.types import Image

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxExtractor:
    """An ONNX graph with one image input; taps inner tensors by name, or its outputs.

    Runs on the GPU where ``device`` is CUDA and onnxruntime was built for it, else on the CPU.
    """

    def __init__(self, path: Path, options: ExtractorOptions) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingExtra("onnxruntime", "ort", "an .onnx extractor") from error
        self.name = path.name
        self._device = torch.device(options.device)
        try:
            model = onnx.load(str(path))
        except Exception as error:
            raise InputError(f"{path}: not a readable ONNX file ({_first_line(error)})") from error
        if options.layers:
            _tap(model, options.layers, self.name)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        wanted = ["CUDAExecutionProvider"] * (self._device.type == "cuda") + ["CPUExecutionProvider"]
        providers = [p for p in wanted if p in ort.get_available_providers()]
        try:
            self._session: Any = ort.InferenceSession(model.SerializeToString(), settings, providers)
        except Exception as error:
            raise InputError(f"{path}: onnxruntime refuses it ({_first_line(error)})") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
            given = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise InputError(
                f"{path}: must have one input, a batch of images (float or uint8); it has {given}"
            )
        self._input, shape = inputs[0], inputs[0].shape
        self._channels_last = shape[3] == 3 and shape[1] != 3
        self._values: InputRange = options.values or (
            "uint8" if self._input.type == "tensor(uint8)" else "imagenet"
        )
        if self._input.type == "tensor(uint8)" and self._values != "uint8":
            raise InputError(f"{path}: takes uint8; --extractor-input {self._values} does not fit it")
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.record = file_record(path, options, self._values)

    def __call__(self, images: Sequence[Image]) -> Features:
        height, width = images[0].shape[:2]
        self._check_size(height, width)
        batch = input_batch(images, self._values).numpy().astype(_DTYPES[self._input.type])
        if self._channels_last:
            batch = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
        single = self._input.shape[0] == 1
        try:
            runs = [
                self._session.run(self._outputs, {self._input.name: part})
                for part in (np.split(batch, len(batch)) if single else [batch])
            ]
        except Exception as error:
            raise InputError(
                f"{self.name}: fails on {batch.dtype} {batch.shape} ({_first_line(error)}); export it with "
                "a batch of any size, or of 1"
            ) from error
        joined = [
            torch.from_numpy(np.concatenate(parts)).to(self._device) for parts in zip(*runs, strict=True)
        ]
        return read_features(
            list(zip(self._outputs, joined, strict=True)), height, width, self._channels_last
        )

    def _check_size(self, height: int, width: int) -> None:
        shape = self._input.shape
        rows, columns = shape[1:3] if self._channels_last else shape[2:]
        for want, have in ((rows, height), (columns, width)):
            if isinstance(want, int) and want != have:
                raise InputError(
                    f"{self.name}: takes {columns}x{rows} px only, and would be given {width}x{height}; "
                    "export it for any size, or choose a --view-size of half its side"
                )


def _tap(model: onnx.ModelProto, layers: Sequence[str], name: str) -> None:
    """Make the named tensors the graph's only outputs, and drop the nodes that they do not need."""
    graph = model.graph
    nodes = list(graph.node)
    maker = {out: i for i, node in enumerate(nodes) for out in node.output if out}
    for layer in layers:
        if layer not in maker:
            near = difflib.get_close_matches(layer, maker, 5, 0.3) or list(maker)[-5:]
            raise InputError(f"{name}: has no tensor '{layer}'; there are {', '.join(near)}, …")
    needed: set[int] = set()
    waiting = list(layers)
    while waiting:
        index = maker.get(waiting.pop())
        if index is not None and index not in needed:
            needed.add(index)
            waiting += _inputs(nodes[index])
    keep = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in sorted(needed)]
    del graph.node[:]
    graph.node.extend(keep)
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=layer) for layer in layers)


def _inputs(node: onnx.NodeProto) -> list[str]:
    """What a node reads, the bodies of its branches and loops included."""
    names = list(node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            names += [name for inner in body.node for name in _inputs(inner)]
    return names


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
