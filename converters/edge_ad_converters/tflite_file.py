"""The ``.tflite`` file: a graph of tensors and operators as a flatbuffer.

Source of the format: TensorFlow Lite's ``schema.fbs``, version 3, through the classes that LiteRT ships.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import MissingExtra

_FILE_IDENTIFIER = b"TFL3"
_FORMAT_VERSION = 3
# As the schema demands of constants; kernels may load them with aligned vector instructions.
_ALIGNMENT = 16
# Operators above this number exist only in the newer of the two fields for it.
_LAST_OLD_OPERATOR = 127


@dataclass(frozen=True)
class Quantization:
    """``real = scale * (stored - zero)``: one pair for a tensor, or one for each index along ``axis``."""

    scale: npt.NDArray[np.float32]
    zero: npt.NDArray[np.int64]
    axis: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor; ``data`` makes it a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    quantization: Quantization | None = None
    data: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Operator:
    """An operator by its name in the schema (``CONV_2D``), its version, the indices of its tensors, and its options.

    ``options`` is the name of the schema's table (``Conv2DOptions``), ``values`` its fields by the names of the
    Python classes; an operator without options leaves both empty.
    """

    code: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: str = ""
    values: Mapping[str, int] = field(default_factory=dict)


def write_file(
    tensors: Sequence[Tensor], operators: Sequence[Operator], inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """Serialize one graph with the signature ``serving_default``; the same graph gives the same bytes.

    Args:
        tensors: all tensors; the rest refers to them by index.
        operators: in the order in which they run.
        inputs: indices of the graph's inputs.
        outputs: indices of the graph's outputs.

    Raises:
        MissingExtra: LiteRT or flatbuffers is not installed.
    """
    schema, flatbuffers = _libraries()
    codes = list(dict.fromkeys((o.code, o.version) for o in operators))
    constants = [t.data for t in tensors if t.data is not None]
    # Buffer 0 is empty by convention: every tensor that is no constant points to it.
    buffers = [_Buffer(schema, None), *(_Buffer(schema, data) for data in constants)]
    numbers = iter(range(1, len(buffers)))
    packed = [_tensor(schema, t, 0 if t.data is None else next(numbers)) for t in tensors]
    graph = schema.SubGraphT(
        tensors=packed,
        inputs=list(inputs),
        outputs=list(outputs),
        operators=[_operator(schema, o, codes.index((o.code, o.version))) for o in operators],
        name="main",
    )
    signature = schema.SignatureDefT(
        inputs=[schema.TensorMapT(tensors[i].name, i) for i in inputs],
        outputs=[schema.TensorMapT(tensors[i].name, i) for i in outputs],
        signatureKey="serving_default",
        subgraphIndex=0,
    )
    model = schema.ModelT(
        version=_FORMAT_VERSION,
        operatorCodes=[_code(schema, code, version) for code, version in codes],
        subgraphs=[graph],
        description="edge-ad",
        buffers=buffers,
        signatureDefs=[signature],
    )
    builder = flatbuffers.Builder(sum(data.nbytes for data in constants) + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


class _Buffer:
    """A constant's bytes; stands in for the schema's BufferT, which does not align them."""

    def __init__(self, schema: Any, data: npt.NDArray[Any] | None) -> None:
        self._schema = schema
        self._payload = b"" if data is None else data.astype(data.dtype.newbyteorder("<")).tobytes()

    def Pack(self, builder: Any) -> int:
        vector = None
        if self._payload:
            builder.StartVector(1, len(self._payload), _ALIGNMENT)
            builder.head -= len(self._payload)
            builder.Bytes[builder.head : builder.head + len(self._payload)] = self._payload
            vector = builder.EndVector()
        self._schema.BufferStart(builder)
        if vector is not None:
            self._schema.BufferAddData(builder, vector)
        end: int = self._schema.BufferEnd(builder)
        return end


def _libraries() -> tuple[Any, Any]:
    try:
        import flatbuffers  # type: ignore[import-untyped]
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        package = "flatbuffers" if error.name == "flatbuffers" else "ai-edge-litert"
        raise MissingExtra(package, "host", "the target 'tflite'") from error
    return schema_py_generated, flatbuffers


def _tensor(schema: Any, tensor: Tensor, buffer: int) -> Any:
    types = {
        np.dtype(np.float32): schema.TensorType.FLOAT32,
        np.dtype(np.int32): schema.TensorType.INT32,
        np.dtype(np.uint8): schema.TensorType.UINT8,
        np.dtype(np.int8): schema.TensorType.INT8,
    }
    quantization = None
    if tensor.quantization is not None:
        quantization = schema.QuantizationParametersT(
            scale=tensor.quantization.scale,
            zeroPoint=tensor.quantization.zero,
            quantizedDimension=tensor.quantization.axis,
        )
    return schema.TensorT(
        shape=np.asarray(tensor.shape, np.int32),
        type=types[tensor.dtype],
        buffer=buffer,
        name=tensor.name,
        quantization=quantization,
        hasRank=True,
    )


def _operator(schema: Any, operator: Operator, code: int) -> Any:
    packed = schema.OperatorT(opcodeIndex=code, inputs=list(operator.inputs), outputs=list(operator.outputs))
    if operator.options:
        packed.builtinOptionsType = vars(schema.BuiltinOptions)[operator.options]
        packed.builtinOptions = vars(schema)[f"{operator.options}T"](**operator.values)
    return packed


def _code(schema: Any, code: str, version: int) -> Any:
    number = vars(schema.BuiltinOperator)[code]
    return schema.OperatorCodeT(min(number, _LAST_OLD_OPERATOR), None, version, number)
