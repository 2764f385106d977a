"""Reading an ONNX graph strictly: whatever is not understood is an error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edge_ad_runtime.errors import InputError


class Source:
    """Shapes, constants and consumers of a graph by the names of its tensors.

    Raises:
        InputError: the graph contradicts itself.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise InputError(f"the graph is not consistent: {error}") from error
        self.graph = model.graph
        self.outputs = [o.name for o in model.graph.output]
        self._shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self._constants = {i.name: i for i in model.graph.initializer}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._consumers[name].append(node)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, all sizes known and positive."""
        shape = self._shapes.get(name, ())
        if not shape or min(shape) < 1:
            raise InputError(f"the shape of the graph's tensor '{name}' is not known: {list(shape)}")
        return shape

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def constant(self, node: onnx.NodeProto, name: str) -> npt.NDArray[Any]:
        """The value of an input of a node that must be constant."""
        if name not in self._constants:
            raise unknown(node, f"its input '{name}' is not a constant")
        return numpy_helper.to_array(self._constants[name])

    def integers(self, node: onnx.NodeProto, name: str) -> list[int]:
        """A constant list of integers."""
        return [int(i) for i in self.constant(node, name).ravel()]

    def only_consumer(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node that alone takes a tensor, if it is of this operator."""
        users = self._consumers[name]
        return (
            users[0]
            if len(users) == 1 and name not in self.outputs and users[0].op_type == operator
            else None
        )

    @staticmethod
    def inputs(node: onnx.NodeProto, least: int, most: int) -> list[str]:
        """The names of a node's inputs, filled up with '' to the number that the operator can have."""
        if not least <= len(node.input) <= most:
            raise unknown(node, f"it has {len(node.input)} inputs")
        return [*node.input, *[""] * (most - len(node.input))]

    @staticmethod
    def attributes(
        node: onnx.NodeProto, defaults: Mapping[str, Any], fixed: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The attributes of a node.

        Args:
            node: the node.
            defaults: every attribute that the node may have, with the value of one that it does not.
            fixed: attributes that must have this value.

        Raises:
            InputError: another attribute or value.
        """
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for name in given:
            if name not in defaults:
                raise unknown(node, f"its attribute '{name}' is unknown here")
        values = {**defaults, **given}
        for name, wanted in fixed.items():
            if values[name] != wanted:
                raise unknown(
                    node, f"its attribute '{name}' is {values[name]!r} where only {wanted!r} is known"
                )
        return values


def unknown(node: onnx.NodeProto, reason: str) -> InputError:
    """The error that a node cannot be written."""
    label = node.name or (node.output[0] if node.output else "")
    return InputError(
        f"the graph's {node.op_type} '{label}' cannot be converted: {reason}. Only fused graphs, float or "
        "quantized by edge-ad, can"
    )


def scalar(node: onnx.NodeProto, values: npt.NDArray[Any]) -> np.generic:
    """The only element of a constant."""
    if values.size != 1:
        raise unknown(node, f"it has {values.size} scales or zero points where one is known")
    element: np.generic = values.reshape(-1)[0]
    return element
