"""The graph that users export without us: three networks one after the other, nothing folded."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edge_ad.nets.model import EfficientAdNets, normalize
from edge_ad_runtime.types import FloatArray, Image

INPUT, OUTPUTS = "image", ("map_st", "map_ae")
OPSET = 18


class PlainNets(nn.Module):
    """``float32 1x3xHxW`` in 0 to 1 to both raw maps; both normalizations and the mean squares are in the graph."""

    def __init__(self, nets: EfficientAdNets) -> None:
        super().__init__()
        self.nets = nets

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        st, ae = self.nets(normalize(image))
        return st, ae


def plain_nets(nets: EfficientAdNets) -> PlainNets:
    """The plain graph, ready to export."""
    return PlainNets(nets).eval().requires_grad_(False)


def example(nets: EfficientAdNets) -> Tensor:
    """An input of the graph's shape."""
    return torch.zeros((1, 3, *nets.input_size))


def export_plain(nets: EfficientAdNets) -> onnx.ModelProto:
    """The plain graph as ``torch.onnx`` writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            plain_nets(nets), (example(nets),), dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS),
            opset_version=OPSET, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


def float_input(batch: Image) -> FloatArray:
    """``uint8 1xHxWx3`` to the plain graph's ``float32 1x3xHxW``, the work that a user's program has to do."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
