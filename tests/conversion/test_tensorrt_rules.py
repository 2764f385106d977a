"""TensorRT's rules: for each a graph that breaks it and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_ad_converters.tensorrt_rules import MAX_OPSET, check_tensorrt
from edge_ad_runtime.types import FloatArray, Image


class Small:
    """A quantized graph with each thing that the rules speak of, built by hand and open to changes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.opset, self.outputs = MAX_OPSET, ["map_st"]
        self.input_shape: list[int | str] = [1, 8, 8, 3]
        self.node("Cast", ["image"], "float", to=TensorProto.FLOAT)
        self.constants["grey"] = np.array(128, np.float32)
        self.node("Sub", ["float", "grey"], "centred")
        self.node("Transpose", ["centred"], "planes", perm=[0, 3, 1, 2])
        self.pair("planes", 1.0)
        self.conv("planes.dq", "left", 3, 4)
        self.conv("planes.dq", "right", 3, 4)
        for side in ("left", "right"):
            self.node("Relu", [side], f"{side}.relu")
            self.pair(f"{side}.relu", 0.5)
        self.node("Concat", ["left.relu.dq", "right.relu.dq"], "both", axis=1)
        self.pair("both", 0.5)
        self.node("AveragePool", ["both.dq"], "pool", kernel_shape=[2, 2], strides=[2, 2])
        self.pair("pool", 0.5)
        self.constants["sizes"] = np.array([1, 8, 6, 6], np.int64)
        self.node("Resize", ["pool.dq", "", "", "sizes"], "large", mode="linear")
        self.pair("large", 0.5)
        self.conv("large.dq", "difference", 8, 2)
        self.pair("difference", 0.25)
        self.node("Mul", ["difference.dq", "difference.dq"], "square")
        self.node("ReduceMean", ["square"], "map_st", axes=[1], keepdims=0)

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))

    def pair(self, tensor: str, scale: float | FloatArray, axis: int | None = None) -> None:
        self.constants[f"{tensor}.scale"] = np.asarray(scale, np.float32)
        self.constants[f"{tensor}.zero"] = np.zeros(np.shape(scale), np.int8)
        operands = [f"{tensor}.scale", f"{tensor}.zero"]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        self.node("QuantizeLinear", [tensor, *operands], f"{tensor}.q", **attributes)
        self.node("DequantizeLinear", [f"{tensor}.q", *operands], f"{tensor}.dq", **attributes)

    def conv(self, source: str, name: str, width: int, out: int) -> None:
        rng = np.random.default_rng(len(self.nodes))
        self.constants[f"{name}.w"] = rng.normal(size=(out, width, 3, 3)).astype(np.float32)
        self.constants[f"{name}.b"] = rng.normal(size=out).astype(np.float32)
        self.pair(f"{name}.w", np.full(out, 0.02, np.float32), axis=0)
        self.node("Conv", [source, f"{name}.w.dq", f"{name}.b"], name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def __getitem__(self, output: str) -> onnx.NodeProto:
        return next(n for n in self.nodes if n.output[0] == output)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, self.input_shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, [1, 6, 6]) for o in self.outputs],
            [numpy_helper.from_array(v, n) for n, v in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def test_the_small_graph_keeps_all_rules_and_runs() -> None:
    model = Small().model()
    onnx.checker.check_model(model, full_check=True)
    assert check_tensorrt(model) == ()
    (result,) = run(model, np.zeros((1, 8, 8, 3), np.uint8))
    assert result.shape == (1, 6, 6)
    assert result.any()


def opset(s: Small) -> None:
    s.opset = 18


def unknown_operator(s: Small) -> None:
    s["right.relu"].op_type = "Erf"


def axes_as_input(s: Small) -> None:
    s.constants["axes"] = np.array([1], np.int64)
    s["map_st"].input.append("axes")


def cubic(s: Small) -> None:
    s["large"].attribute[0].s = b"cubic"


def crop_coordinates(s: Small) -> None:
    s["large"].attribute.append(helper.make_attribute("coordinate_transformation_mode", "tf_crop_and_resize"))


def computed_sizes(s: Small) -> None:
    """Sizes that a node makes; as int64 values that are computed they break a second rule."""
    s.node("Identity", ["sizes"], "made sizes")
    s.nodes.insert(0, s.nodes.pop())
    s["large"].input[3] = "made sizes"


def long_pool(s: Small) -> None:
    del s["pool"].attribute[:]
    s["pool"].attribute.extend(
        [helper.make_attribute("kernel_shape", [2]), helper.make_attribute("strides", [2])]
    )


def image_not_cast_first(s: Small) -> None:
    s.node("Identity", ["image"], "same")
    s.nodes.insert(0, s.nodes.pop())
    s["float"].input[0] = "same"


def double(s: Small) -> None:
    s.constants["grey"] = np.array(128, np.float64)


def long_constant(s: Small) -> None:
    s.constants["sizes"] = np.array([1, 8, 6, 2**40], np.int64)


def open_shape(s: Small) -> None:
    s.input_shape = [1, "height", 8, 3]


def no_zero_point(s: Small) -> None:
    del s["planes.q"].input[2]


def uint8_activation(s: Small) -> None:
    s.constants["planes.zero"] = np.zeros((), np.uint8)


def moved_zero_point(s: Small) -> None:
    s.constants["planes.zero"] = np.array(3, np.int8)


def computed_zero_point(s: Small) -> None:
    s.node("Identity", ["planes.zero"], "made zero")
    s.nodes.insert(0, s.nodes.pop())
    s["planes.q"].input[2] = "made zero"


def computed_scale(s: Small) -> None:
    s.node("Identity", ["planes.scale"], "made scale")
    s.nodes.insert(0, s.nodes.pop())
    s["planes.q"].input[1] = "made scale"


def half_scale(s: Small) -> None:
    s.constants["planes.scale"] = s.constants["planes.scale"].astype(np.float16)


def negative_scale(s: Small) -> None:
    s.constants["planes.scale"] = np.array(-1, np.float32)


def infinite_scale(s: Small) -> None:
    s.constants["planes.scale"] = np.array(np.inf, np.float32)


def channel_scales_on_an_activation(s: Small) -> None:
    s.constants["planes.scale"] = np.ones(3, np.float32)
    s.constants["planes.zero"] = np.zeros(3, np.int8)


def weights_along_the_inputs(s: Small) -> None:
    s.constants["left.w.scale"] = np.full(3, 0.02, np.float32)
    s.constants["left.w.zero"] = np.zeros(3, np.int8)
    for name in ("left.w.q", "left.w.dq"):
        s[name].attribute[0].i = 1


def wrong_number_of_scales(s: Small) -> None:
    s.constants["left.w.scale"] = np.full(5, 0.02, np.float32)
    s.constants["left.w.zero"] = np.zeros(5, np.int8)


def stored_int8_weights(s: Small) -> None:
    s.constants["left.w"] = np.ones((4, 3, 3, 3), np.int8)
    s.nodes.remove(s["left.w.q"])
    s["left.w.dq"].input[0] = "left.w"


def unequal_pair(s: Small) -> None:
    s.constants["other"] = np.array(2, np.float32)
    s["planes.dq"].input[1] = "other"


def quantized_for_nothing(s: Small) -> None:
    s.node("QuantizeLinear", ["planes", "planes.scale", "planes.zero"], "unused")


def float_input(s: Small) -> None:
    s["left"].input[0] = "planes"


def computed_weights(s: Small) -> None:
    s.node("Identity", ["left.w"], "made")
    s.nodes.insert(0, s.nodes.pop())
    s["left.w.q"].input[0] = "made"


def int32_bias(s: Small) -> None:
    """Dequantized from int32, as other engines like it."""
    s.constants["left.b"] = np.ones(4, np.int32)
    s.constants["left.b.scale"], s.constants["left.b.zero"] = np.ones(4, np.float32), np.zeros(4, np.int32)
    s.node("DequantizeLinear", ["left.b", "left.b.scale", "left.b.zero"], "left.b.dq", axis=0)
    s.nodes.insert(0, s.nodes.pop())
    s["left"].input[2] = "left.b.dq"


def pair_before_relu(s: Small) -> None:
    s.pair("left", 0.5)
    at = s.nodes.index(s["left.relu"])
    s.nodes[at:at] = [s.nodes.pop(-2), s.nodes.pop()]
    s["left.relu"].input[0] = "left.dq"


def quantized_output(s: Small) -> None:
    s.pair("map_st", 0.5)
    s.outputs = ["map_st.dq"]


def unequal_concat(s: Small) -> None:
    s.constants["left.relu.scale"] = np.array(0.75, np.float32)


def half_quantized_concat(s: Small) -> None:
    s["both"].input[1] = "right.relu"


# What is broken, and what is then said: each message at least once, and nothing that is none of them.
BROKEN: list[tuple[Callable[[Small], None], tuple[str, ...]]] = [
    (opset, ("opset 18 is outside 13 to 17",)),
    (unknown_operator, ("Erf 'right.relu': this operator is not known",)),
    (axes_as_input, ("ReduceMean 'map_st': its axes are an input",)),
    (cubic, ("the mode 'cubic'",)),
    (crop_coordinates, ("tf_crop_and_resize",)),
    (computed_sizes, ("sizes or scales must be constant", "'made sizes' is INT64", "has no fixed shape")),
    (long_pool, ("TensorRT pools in 2D or 3D only", "has no fixed shape")),
    (image_not_cast_first, ("'image' must go straight into a Cast", "'same' is UINT8")),
    (double, ("the constant 'grey' is float64",)),
    (long_constant, ("do not fit int32",)),
    (open_shape, ("has no fixed shape",)),
    (no_zero_point, ("QuantizeLinear 'planes.q': the zero point must be given", "is UINT8")),
    (uint8_activation, ("'planes.q': quantized to uint8", "'planes.dq': quantized to uint8", "is uint8,", "is UINT8")),
    (moved_zero_point, ("'planes.q': the zero point is not 0", "'planes.dq': the zero point is not 0")),
    (computed_zero_point, ("QuantizeLinear 'planes.q': the zero point must be constant",)),
    (computed_scale, ("QuantizeLinear 'planes.q': the scale must be constant",)),
    (half_scale, ("the scale is float16",)),
    (negative_scale, ("the scale must be finite and positive",)),
    (infinite_scale, ("the scale must be finite and positive",)),
    (channel_scales_on_an_activation, ("an activation has 3 scales",)),
    (weights_along_the_inputs, ("weights are quantized along axis 1",)),
    (wrong_number_of_scales, ("5 scales for 4 output channels",)),
    (stored_int8_weights, ("weights stored as integers",)),
    (unequal_pair, ("DequantizeLinear 'planes.dq': its scale is not that of",)),
    (quantized_for_nothing, ("QuantizeLinear 'unused': its result must go into",)),
    (float_input, ("Conv 'left': its weights are quantized and its input is not",)),
    (computed_weights, ("Conv 'left': its weights must be constant", "an activation has 4 scales")),
    (int32_bias, (
        "Conv 'left': its bias must be a float constant",
        "DequantizeLinear 'left.b.dq': quantized to int32",
        "'left.b.dq': weights stored as integers",
    )),
    (pair_before_relu, ("Relu 'left.relu': stands behind Q/DQ",)),
    (quantized_output, ("the output 'map_st.dq' is quantized",)),
    (unequal_concat, ("Concat 'both': its inputs have different scales",)),
    (half_quantized_concat, ("Concat 'both': some of its inputs are quantized",)),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "messages"), BROKEN, ids=[b.__name__ for b, _ in BROKEN])
def test_a_broken_rule_is_named_and_no_other(
    broken: Callable[[Small], None], messages: tuple[str, ...]
) -> None:
    small = Small()
    broken(small)
    problems = check_tensorrt(small.model())
    for message in messages:
        assert any(message in p for p in problems), (message, problems)
    assert [p for p in problems if not any(m in p for m in messages)] == []


def test_operators_of_another_domain() -> None:
    model = Small().model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert check_tensorrt(model) == ("operators of the domain 'com.microsoft' are unknown to TensorRT",)


@pytest.mark.parametrize("source", ["planes", "planes.dq"])
def test_a_convolution_may_stay_float(source: str) -> None:
    """A layer too sensitive for int8 has float weights; its input may be one that others read in int8."""
    small = Small()
    small["left"].input[0], small["left"].input[1] = source, "left.w"
    small.nodes.remove(small["left.w.q"])
    small.nodes.remove(small["left.w.dq"])
    assert check_tensorrt(small.model()) == ()


def test_a_concat_for_a_float_convolution_may_be_mixed() -> None:
    small = Small()
    small["both"].input[1] = "right.relu"
    small["pool"].input[0] = "both"
    for name in ("both.q", "both.dq"):
        small.nodes.remove(small[name])
    assert check_tensorrt(small.model()) == ()


def run(model: onnx.ModelProto, image: Image | FloatArray, name: str = "image") -> list[FloatArray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Otherwise constants are folded before a type error could show.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[FloatArray] = session.run(None, {name: image})
    return results
