"""From ONNX to an engine plan with TensorRT 8.5 to 10, on the device that will run it.

Precisions, decided for the sake of the result and not of the last microsecond:

- ``int8``: exactly what the graph's QuantizeLinear and DequantizeLinear say; everything else, the squared
  difference and its mean above all, in float 32. TensorRT 10 builds a strongly typed network, in which the
  graph alone decides; TensorRT 8 needs the flag INT8 to accept the graph. FP16 is never set: a square above
  65504 would become infinite and one below 6e-8 zero.
- ``fp16``: the convolutions and what lies between them may run in half precision; every elementwise layer
  (the squares among them) and every reduction is bound to float 32, and the build fails where TensorRT cannot
  obey.
- ``fp32``: as the graph says.

TF32, on by default, rounds the factors of float 32 convolutions to 10 bits; it is off in all of them.

Sources: NVIDIA TensorRT Developer Guide ("Strongly Typed Networks", "Explicit Quantization", "Reduced
Precision"), and the signatures in the Python bindings of TensorRT 8.6.1 and 10.3.0.
"""

from __future__ import annotations

from typing import Any

from edge_ad_runtime.engines.base import Precision
from edge_ad_runtime.errors import BundleError, EngineError

# Raised whenever something below changes the plan, so that plans built before are not used.
BUILD = 1


def build_plan(trt: Any, logger: Any, model: bytes, precision: Precision) -> bytes:
    """Build the plan of an ONNX model; takes minutes on a Jetson.

    Args:
        trt: the module ``tensorrt``.
        logger: TensorRT's logger.
        model: the float or QDQ graph, serialized.
        precision: what the model was converted to.

    Raises:
        BundleError: TensorRT cannot parse or build the model.
        EngineError: this TensorRT has no fp16 mode.
    """
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, precision))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        problems = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BundleError(f"TensorRT {trt.__version__} refuses the model: {problems}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _bind_to_float32(trt, network)
    elif precision == "int8" and not _has_strong_types(trt):
        config.set_flag(trt.BuilderFlag.INT8)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BundleError(
            f"TensorRT {trt.__version__} cannot build an engine of the model; its own messages above say why"
        )
    return bytes(plan)


def _network_flags(trt: Any, precision: Precision) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if precision == "fp16":
        if not hasattr(trt.BuilderFlag, "FP16"):
            raise EngineError(
                f"TensorRT {trt.__version__} takes precisions from the graph alone, and bundles hold no fp16 graph; "
                "convert with --precision int8 or fp32"
            )
    elif _has_strong_types(trt):
        return 1 << int(flags.STRONGLY_TYPED)
    # Needed by TensorRT 8, ignored by 10, absent later.
    return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0


def _has_strong_types(trt: Any) -> bool:
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _bind_to_float32(trt: Any, network: Any) -> None:
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        # The parser also makes such layers for integer shapes; those have no float precision.
        if (
            layer.type in (trt.LayerType.ELEMENTWISE, trt.LayerType.REDUCE)
            and layer.get_output(0).dtype == trt.float32
        ):
            layer.precision = trt.float32
            layer.set_output_type(0, trt.float32)
