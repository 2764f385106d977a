"""The fused graph as float ONNX."""

from __future__ import annotations

import logging
import warnings

import onnx
import torch

from edge_ad_converters.fuse import FusedNets

OPSET = 18


def export_onnx(fused: FusedNets) -> onnx.ModelProto:
    """Export the fused graph: input ``image``, outputs ``map_st`` and ``map_ae``."""
    example = torch.zeros((1, *fused.input_size, 3), dtype=torch.uint8)
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                fused,
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=["map_st", "map_ae"],
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    model = program.model_proto
    # The exporter records where on this machine each node's code stands; a bundle should not.
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.checker.check_model(model)
    return model
