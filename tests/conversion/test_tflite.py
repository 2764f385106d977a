"""The target tflite: the same graph in LiteRT, float and INT8, operator by operator."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

from edge_ad.describe import describe
from edge_ad.nets.model import normalize, to_tensor
from edge_ad_converters.fuse import fuse
from edge_ad_converters.graph import activations, convolutions, differences, layer_name, results
from edge_ad_converters.onnx_float import export_onnx
from edge_ad_converters.onnx_qdq import quantize_onnx
from edge_ad_converters.ranges import find_range, observe
from edge_ad_converters.tflite import write_tflite
from edge_ad_converters.tflite_graph import is_same
from edge_ad_runtime.engines import EngineOptions, open_engine
from edge_ad_runtime.engines.tflite import TfliteEngine
from edge_ad_runtime.errors import BundleError, InputError, MissingExtra
from edge_ad_runtime.types import Image
from tests.conversion.test_fuse import deviation, photograph, random_nets

# What tflite-runtime 2.14 knows, from its register.cc.
KNOWN_VERSIONS = {
    "AVERAGE_POOL_2D": 3, "CONCATENATION": 3, "CONV_2D": 6, "DEPTHWISE_CONV_2D": 7, "DEQUANTIZE": 5, "MEAN": 3,
    "MUL": 7, "PAD": 4, "QUANTIZE": 3, "RESIZE_BILINEAR": 4, "SLICE": 6,
}  # fmt: skip
# Of the maps, INT8 in LiteRT against INT8 in onnxruntime, relative to the largest value.
INT8_TOLERANCE = 0.03
# The same of maps over few channels: there one step of a difference near its largest, which with its headroom
# has some 32 steps, counts for more.
FEW_CHANNELS_TOLERANCE = 0.05


@dataclass(frozen=True)
class Pair:
    """A graph and its ``.tflite``."""

    model: onnx.ModelProto
    tflite: bytes

    def maps(self, image: Image) -> tuple[Any, Any]:
        """Of onnxruntime and of LiteRT."""
        return (
            open_engine("ort", self.model.SerializeToString(), "fp32", 1).run(image),
            open_engine("tflite", self.tflite, "fp32", 1).run(image),
        )


@dataclass(frozen=True)
class Observed:
    """What a quantization needs to know, with headroom above the differences."""

    ranges: dict[str, tuple[float, float]]
    means: dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Models:
    float_: Pair
    int8: Pair
    observed: Observed


def noise(height: int = 256, width: int = 256) -> Image:
    return np.random.default_rng(1).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def observed(model: onnx.ModelProto, image: Image) -> Observed:
    read = [n.input[0] for n in convolutions(model)]
    statistics = observe(model, [*activations(model), *read], [image])
    ranges = {name: find_range(statistics[name], "min-max") for name in activations(model)}
    for name in differences(model):
        ranges[name] = (4 * ranges[name][0], 4 * ranges[name][1])
    return Observed(ranges, {name: statistics[name].channel_mean for name in read})


def quantized(model: onnx.ModelProto, image: Image) -> onnx.ModelProto:
    found = observed(model, image)
    return quantize_onnx(model, found.ranges, found.means)


def build(size: str, padded: bool, input_size: tuple[int, int] = (256, 256)) -> Models:
    """Random nets, the teacher normalized as training does it, so that the maps are not one large offset."""
    nets = random_nets(size, padded, input_size)
    image = photograph(*input_size)
    with torch.no_grad():
        raw = nets.teacher_raw(nets.trunk(normalize(to_tensor(image))))
        nets.teacher_mean.copy_(raw.mean((0, 2, 3)).view(1, -1, 1, 1))
        nets.teacher_std.copy_(raw.std((0, 2, 3)).view(1, -1, 1, 1))
    model = export_onnx(fuse(describe(nets)))
    found = observed(model, image)
    qdq = quantize_onnx(model, found.ranges, found.means)
    return Models(Pair(model, write_tflite(model)), Pair(qdq, write_tflite(qdq)), found)


@pytest.fixture(scope="module")
def plain() -> Models:
    return build("n", False)


@pytest.fixture(scope="module")
def padded() -> Models:
    return build("n", True)


@pytest.fixture(scope="module", params=["plain", "padded"])
def either(request: pytest.FixtureRequest) -> Models:
    models: Models = request.getfixturevalue(request.param)
    return models


def check_parity(models: Models, images: list[Image]) -> None:
    for image in images:
        for a, b in zip(*models.float_.maps(image), strict=True):
            assert a.shape == b.shape and b.dtype == np.float32
            assert deviation(a, b) < 1e-5
    check_int8(models, images)


def check_int8(models: Models, images: list[Image]) -> None:
    for image in images:
        for a, b in zip(*models.int8.maps(image), strict=True):
            assert deviation(a, b) < INT8_TOLERANCE
            assert abs(b.mean() / a.mean() - 1) < 2e-3


def test_float_and_int8_compute_what_onnxruntime_does(either: Models) -> None:
    check_parity(either, [photograph(), noise()])


def test_images_need_not_be_square() -> None:
    model = export_onnx(fuse(describe(random_nets("n", False, (256, 384)))))
    for a, b in zip(*Pair(model, write_tflite(model)).maps(photograph(256, 384)), strict=True):
        assert a.shape == b.shape
        assert deviation(a, b) < 1e-5


@pytest.mark.study
@pytest.mark.parametrize(("size", "pad"), [("s", False), ("s", True), ("m", False), ("m", True)])
def test_the_larger_nets(size: str, pad: bool) -> None:
    models = build(size, pad)
    check_parity(models, [photograph(), noise()])
    check_operators(models)


def test_operators(either: Models) -> None:
    check_operators(either)


def check_operators(models: Models) -> None:
    """Every convolution in integers, float only from the difference on, and no operator newer than needed."""
    nodes = Counter(n.op_type for n in models.float_.model.graph.node)
    operators = read_operators(models.int8.tflite)
    found = Counter(o.code for o in operators)
    assert found["CONV_2D"] == nodes["Conv"]
    assert found["DEPTHWISE_CONV_2D"] == nodes["AveragePool"]
    assert found["RESIZE_BILINEAR"] == nodes["Resize"]
    assert found["QUANTIZE"] == nodes["Cast"]
    for operator in operators:
        if operator.code not in ("QUANTIZE", "DEQUANTIZE", "MUL", "MEAN", "CONCATENATION"):
            assert operator.types[0] == operator.types[-1] == schema.TensorType.INT8
        if operator.code == "CONV_2D":
            int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
            assert operator.types == [int8, int8, int32, int8]
    in_float = [o.code for o in operators if schema.TensorType.FLOAT32 in o.types]
    assert in_float == ["DEQUANTIZE", "MUL", "MEAN"] * 2
    for file in (models.float_.tflite, models.int8.tflite):
        for operator in read_operators(file):
            assert operator.version <= KNOWN_VERSIONS[operator.code]


@dataclass(frozen=True)
class ReadOperator:
    code: str
    version: int
    types: list[int]
    """Of the inputs, then the output."""


def read(file: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(file, 0)


def read_operators(file: bytes) -> list[ReadOperator]:
    model = read(file)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        assert code.deprecatedBuiltinCode == code.builtinCode
        types = [graph.tensors[i].type for i in [*operator.inputs, *operator.outputs]]
        found.append(ReadOperator(names[code.builtinCode], code.version, types))
    return found


def intermediates(file: bytes, image: Image) -> dict[str, npt.NDArray[Any]]:
    """All tensors that an operator made, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        interpreter = Interpreter(model_content=file, num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    graph = read(file).subgraphs[0]
    made = {i for operator in graph.operators for i in operator.outputs}
    return {graph.tensors[i].name.decode(): interpreter.get_tensor(i) for i in made}


def test_no_tensor_is_more_than_rounding_away(either: Models) -> None:
    """In steps of INT8. Convolutions are exact; an interpolation or average that ends on a half may go either way."""
    image = photograph()
    model = onnx.ModelProto()
    model.CopyFrom(either.int8.model)
    names = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.UINT8, None) for n in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip(names, session.run(names, {"image": image}), strict=True))
    found = intermediates(either.int8.tflite, image)
    pools = [n.output[0] for n in either.float_.model.graph.node if n.op_type == "AveragePool"]
    first_resize = next(n.output[0] for n in either.float_.model.graph.node if n.op_type == "Resize")
    after = results(either.float_.model)
    encoder = {after[n.output[0]] for n in convolutions(either.float_.model) if "encoder" in layer_name(n)}
    assert len(encoder) == 6
    exact = True
    for name in names:
        label = name.removesuffix(".quantized")
        steps = found[f"{label}.int8"].astype(int) + 128 - expected[name].astype(int).transpose(0, 2, 3, 1)
        exact = exact and label not in (pools[0], first_resize)
        if exact or label in encoder:
            assert not steps.any(), label
        assert np.abs(steps).max() <= 2, label
        assert np.abs(steps).mean() < 0.1, label


def test_the_image_enters_without_loss(plain: Models) -> None:
    found = intermediates(plain.int8.tflite, noise())
    np.testing.assert_array_equal(found["image.int8"].astype(int) + 128, noise())
    four = found["cat.int8"].astype(int) + 128
    np.testing.assert_array_equal(four[..., :3], noise())
    assert (four[..., 3] == 255).all()
    for tensor in read(plain.int8.tflite).subgraphs[0].tensors:
        if tensor.name in (b"image.int8", b"cat.int8"):
            assert (list(tensor.quantization.scale), list(tensor.quantization.zeroPoint)) == ([1.0], [-128])


def test_the_file_is_repeatable_aligned_and_named(plain: Models) -> None:
    file = plain.int8.tflite
    assert write_tflite(plain.int8.model) == file
    model = read(file)
    packed = schema.Model.GetRootAs(file, 0)
    for i in range(1, packed.BuffersLength()):
        start = packed.Buffers(i)._tab.Vector(packed.Buffers(i)._tab.Offset(4))
        assert start % 16 == 0
        assert file[start : start + 1] == bytes(model.buffers[i].data[:1])
    interpreter = Interpreter(model_content=file)
    assert [d["name"] for d in interpreter.get_input_details()] == ["image"]
    assert [d["name"] for d in interpreter.get_output_details()] == ["map_st", "map_ae"]
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["map_ae", "map_st"]}
    }


# Graphs in which some convolutions stay float


@pytest.mark.parametrize(
    "layers",
    [{"trunk.layers.3"}, {"encoder.layers.0", "encoder.layers.2", "encoder.layers.10"}, {"steps.2.layers.0"},
     {"steps.4.layers.0", "difference_ae"}, {"trunk.layers.0", "difference_st"}],
)  # fmt: skip
def test_mixtures(plain: Models, layers: set[str]) -> None:
    model = quantize_onnx(plain.float_.model, plain.observed.ranges, plain.observed.means, in_float=layers)
    mixed = Pair(model, write_tflite(model))
    types = Counter(o.types[0] for o in read_operators(mixed.tflite) if o.code == "CONV_2D")
    assert types[schema.TensorType.FLOAT32] == len(layers)
    for a, b in zip(*mixed.maps(photograph()), strict=True):
        assert deviation(a, b) < INT8_TOLERANCE


def test_all_in_float_is_the_float_graph(plain: Models) -> None:
    model = plain.float_.model
    layers = {layer_name(n) for n in convolutions(model)}
    model = quantize_onnx(model, plain.observed.ranges, plain.observed.means, in_float=layers)
    for a, b in zip(*Pair(model, write_tflite(model)).maps(photograph()), strict=True):
        assert deviation(a, b) < 1e-5


# Graphs made here, to reach what fused graphs have once or not at all


def made(
    operators: list[onnx.NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    size: int,
    channels: int,
    out: int,
) -> onnx.ModelProto:
    """``image`` (``size``) as float ``x``, the operators, which end in ``y``, and the mean square of that."""
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["first"], ["x"], to=TensorProto.FLOAT),
        *operators,
        helper.make_node("Mul", ["y", "y"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "axes"], ["map_st"], keepdims=0),
        helper.make_node("ReduceMean", ["squared", "axes"], ["map_ae"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, size, size, channels])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, out, out])
            for name in ("map_st", "map_ae")
        ],
        [numpy_helper.from_array(v, k) for k, v in constants.items()]
        + [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def convolution(
    kernel: int, stride: int, pads: list[int], size: int, dilation: int = 1, dead: bool = False
) -> onnx.ModelProto:
    rng = np.random.default_rng(kernel)
    weight = rng.normal(size=(8, 3, kernel, kernel)).astype(np.float32)
    bias = rng.normal(size=8).astype(np.float32)
    if dead:
        weight[3] = bias[3] = 0
    out = (size + pads[0] + pads[2] - dilation * (kernel - 1) - 1) // stride + 1
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["conv"], strides=[stride] * 2, pads=pads, dilations=[dilation] * 2
        ),
        helper.make_node("Relu", ["conv"], ["y"]),
    ]
    return made(nodes, {"w": weight, "b": bias}, size, 3, out)


def check_made(model: onnx.ModelProto, size: int) -> None:
    """Float and INT8 against onnxruntime."""
    image = noise(size, size)
    qdq = quantized(model, image)
    for graph, tolerance in ((model, 1e-5), (qdq, FEW_CHANNELS_TOLERANCE)):
        for a, b in zip(*Pair(graph, write_tflite(graph)).maps(image), strict=True):
            assert a.shape == b.shape
            assert deviation(a, b) < tolerance


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "size"),
    [(3, 1, [0, 0, 0, 0], 9), (3, 1, [1, 1, 1, 1], 9), (4, 1, [1, 1, 2, 2], 9), (4, 1, [2, 2, 1, 1], 9),
     (4, 2, [1, 1, 1, 1], 10), (4, 2, [1, 1, 1, 1], 11), (3, 2, [0, 0, 1, 1], 10), (3, 2, [1, 1, 0, 0], 10),
     (2, 3, [0, 0, 0, 0], 9), (5, 1, [3, 0, 1, 4], 9)],
)  # fmt: skip
def test_padding_and_strides(kernel: int, stride: int, pads: list[int], size: int) -> None:
    check_made(convolution(kernel, stride, pads, size), size)


def test_a_dead_channel_is_no_obstacle() -> None:
    check_made(convolution(3, 1, [1, 1, 1, 1], 9, dead=True), 9)


def test_same_is_what_tensorflow_adds() -> None:
    assert is_same((10, 10), (4, 4), (2, 2), (1, 1, 1, 1))
    assert is_same((9, 10), (3, 3), (2, 2), (1, 1, 0, 1))
    assert is_same((9, 9), (4, 4), (1, 1), (1, 2, 1, 2))
    assert not is_same((9, 9), (4, 4), (1, 1), (2, 1, 2, 1))
    assert not is_same((9, 9), (3, 3), (1, 1), (0, 0, 0, 0))


def moved(nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]], out: int) -> onnx.ModelProto:
    """A 1x1 convolution to ``a``, the nodes from ``a`` to ``b``, and a 1x1 convolution to ``y``."""
    rng = np.random.default_rng(2)
    channels = 8
    constants = {
        "w": rng.normal(size=(channels, 3, 1, 1)).astype(np.float32),
        "v": rng.normal(size=(4, channels, 1, 1)).astype(np.float32),
        "bw": rng.normal(size=channels).astype(np.float32),
        "bv": rng.normal(size=4).astype(np.float32),
    } | constants
    around = [
        helper.make_node("Conv", ["x", "w", "bw"], ["a"]),
        *nodes,
        helper.make_node("Conv", ["b", "v", "bv"], ["y"]),
    ]
    return made(around, constants, 12, 3, out)


def pad(amounts: list[int], mode: str) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[Any]]]:
    return [helper.make_node("Pad", ["a", "pads"], ["b"], mode=mode)], {"pads": np.array(amounts, np.int64)}


def resized(size: int, **attributes: Any) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[Any]]]:
    given = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"} | attributes
    node = helper.make_node("Resize", ["a", "", "", "size"], ["b"], **given)
    return [node], {"size": np.array([1, 8, size, size], np.int64)}


def pooled(**attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2], **attributes)]


def halves(first: list[int], second: list[int]) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[Any]]]:
    """Slices of the channels, the second before the first."""
    constants = {"channel": np.array([1], np.int64), "one": np.array([1], np.int64)}
    nodes = []
    for name, (start, end) in (("p", first), ("q", second)):
        constants |= {f"{name}0": np.array([start], np.int64), f"{name}1": np.array([end], np.int64)}
        nodes.append(helper.make_node("Slice", ["a", f"{name}0", f"{name}1", "channel", "one"], [name]))
    return [*nodes, helper.make_node("Concat", ["q", "p"], ["b"], axis=1)], constants


@pytest.mark.parametrize(
    ("nodes", "constants", "out"),
    [
        pytest.param(*pad([0, 0, 1, 1, 0, 0, 2, 2], "edge"), 15, id="edge"),
        pytest.param(*pad([0, 0, 6, 0, 0, 0, 0, 6], "edge"), 18, id="edge, far and one-sided"),
        pytest.param(*pad([0, 0, 1, 3, 0, 0, 2, 0], "constant"), 15, id="zeros"),
        pytest.param(*resized(23), 23, id="enlarged"),
        pytest.param(*resized(5), 5, id="reduced"),
        pytest.param(pooled(), {}, 6, id="pool"),
        pytest.param(pooled(pads=[1] * 4, count_include_pad=1), {}, 7, id="padded pool"),
        pytest.param(*halves([0, 3], [3, 8]), 12, id="slices"),
    ],
)
def test_operators_that_move_values(
    nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]], out: int
) -> None:
    check_made(moved(nodes, constants, out), 12)


def test_concatenation_of_many() -> None:
    names = [f"c{i}" for i in range(9)]
    rng = np.random.default_rng(3)
    weights = {n + "w": rng.normal(size=(i + 1, 3, 1, 1)).astype(np.float32) for i, n in enumerate(names)}
    biases = {n + "b": rng.normal(size=i + 1).astype(np.float32) for i, n in enumerate(names)}
    nodes = [helper.make_node("Conv", ["x", n + "w", n + "b"], [n]) for n in names]
    nodes.append(helper.make_node("Concat", names, ["cat"], axis=1))
    head = {"hw": rng.normal(size=(4, 45, 1, 1)).astype(np.float32), "hb": np.zeros(4, np.float32)}
    nodes.append(helper.make_node("Conv", ["cat", "hw", "hb"], ["y"]))
    check_made(made(nodes, weights | biases | head, 8, 3, 8), 8)


@pytest.mark.parametrize(
    ("nodes", "constants", "out"),
    [pytest.param(pooled(), {}, 6, id="pool"), pytest.param(*pad([0, 0, 1, 3, 0, 0, 2, 0], "constant"), 15, id="pad"),
     pytest.param(*halves([0, 3], [3, 8]), 12, id="slices")],
)  # fmt: skip
def test_another_grid_of_the_result_is_kept(
    nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]], out: int
) -> None:
    """The result's grid is coarser by 1.5 and has another zero point; taken for its input's, maps would be far off."""
    image = noise(12, 12)
    qdq = quantized(moved(nodes, constants, out), image)
    values = {i.name: numpy_helper.to_array(i) for i in qdq.graph.initializer}
    for name in ("b.scale", "bv.scale"):
        qdq = replaced(qdq, name, np.asarray(values[name] * np.float32(1.5)))
    qdq = replaced(qdq, "b.zero", np.asarray(values["b.zero"] - np.uint8(7)))
    for a, b in zip(*Pair(qdq, write_tflite(qdq)).maps(image), strict=True):
        assert deviation(a, b) < FEW_CHANNELS_TOLERANCE


def test_the_average_rounds_ties_to_even() -> None:
    """On the grid of its input, where a quarter of the averages of four integers are ties."""
    image = noise(12, 12)
    qdq = quantized(moved(pooled(), {}, 6), image)
    values = {i.name: numpy_helper.to_array(i) for i in qdq.graph.initializer}
    for name in ("scale", "zero"):
        qdq = replaced(qdq, f"b.{name}", values[f"a.{name}"])
    qdq = replaced(qdq, "bv.scale", (values["v.scale"] * values["a.scale"]).astype(np.float32))
    found = intermediates(write_tflite(qdq), image)
    zero = int(values["a.zero"]) - 128
    mean = found["a.int8"].astype(float).reshape(1, 6, 2, 6, 2, 8).mean((2, 4)) - zero
    assert (mean % 1 == 0.5).sum() > 20
    np.testing.assert_array_equal(found["b.int8"] - zero, np.rint(mean))


# What must be refused


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(moved([helper.make_node("Sigmoid", ["a"], ["b"])], {}, 12), "Sigmoid 'b'.*unknown here", id="operator"),
        pytest.param(moved([helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Relu", ["r"], ["b"])], {}, 12), "Relu", id="two ReLUs"),
        pytest.param(moved(*resized(24, mode="nearest"), 24), "'mode' is b'nearest'", id="nearest"),
        pytest.param(moved(*resized(24, coordinate_transformation_mode="asymmetric"), 24), "asymmetric", id="asymmetric"),
        pytest.param(moved(*pad([0, 0, 1, 1, 0, 0, 1, 1], "reflect"), 14), "mode is b'reflect'", id="reflect"),
        pytest.param(moved(*pad([0, 0, 1, 1, 0, 0, -1, -1], "constant"), 12), "negative", id="cropping"),
        pytest.param(moved(pooled(pads=[1] * 4), {}, 7), "does not count", id="pads left out of the mean"),
        pytest.param(moved(pooled(pads=[0] * 4, ceil_mode=1), {}, 6), "'ceil_mode' is 1", id="ceil mode"),
        pytest.param(convolution(3, 1, [2, 2, 2, 2], 9, dilation=2), "dilations", id="dilations"),
    ],
)  # fmt: skip
def test_unknown_graphs_are_refused(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_tflite(model)


def replaced(model: onnx.ModelProto, name: str, values: npt.NDArray[Any]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for constant in changed.graph.initializer:
        if constant.name == name:
            constant.CopyFrom(numpy_helper.from_array(values, name))
    return changed


def test_unknown_quantizations_are_refused(plain: Models) -> None:
    model = plain.int8.model
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    zero = values["trunk.layers.0.weight.zero"].copy()
    zero[0] = 1
    for name, new, message in (
        ("trunk.layers.0.weight.zero", zero, "symmetric"),
        (
            "trunk.layers.0.bias.scale",
            values["trunk.layers.0.bias.scale"] * np.float32(1.01),
            "scale of its bias",
        ),
    ):
        with pytest.raises(InputError, match=message):
            write_tflite(replaced(model, name, new))
    wide = moved(pooled(), {}, 6)
    wide = quantized(wide, noise(12, 12))
    with pytest.raises(InputError, match="activations of uint16"):
        write_tflite(replaced(wide, "b.zero", np.array(5, np.uint16)))


# The engine


def test_the_engine_runs_and_owns_its_results(plain: Models) -> None:
    engine = TfliteEngine(plain.int8.tflite)
    assert engine.name.startswith("LiteRT ")
    maps = engine.run(photograph())
    kept = [m.copy() for m in maps]
    other = engine.run(noise())
    for before, now, new in zip(kept, maps, other, strict=True):
        np.testing.assert_array_equal(before, now)
        assert not np.array_equal(now, new)
    for threads in (1, 2):
        for a, b in zip(
            TfliteEngine(plain.int8.tflite, EngineOptions(threads=threads)).run(photograph()),
            maps,
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_a_model_that_is_none_is_refused(plain: Models) -> None:
    for content in (b"", b"no model", plain.int8.tflite[:1000], plain.int8.tflite[:-100]):
        with pytest.raises(BundleError, match="refuses the model"):
            TfliteEngine(content)


def test_a_model_of_something_else_is_refused() -> None:
    model = convolution(3, 1, [0, 0, 0, 0], 9)
    model.graph.output[0].name = "map_xy"
    for node in model.graph.node:
        if node.output[0] == "map_st":
            node.output[0] = "map_xy"
    with pytest.raises(BundleError, match="no tensor 'map_st'"):
        TfliteEngine(write_tflite(model))


def test_without_a_runtime_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(MissingExtra, match=r"'tflite-runtime'.*edge-ad\[tflite\]"):
        TfliteEngine(b"")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtra, match=r"edge-ad\[host\]"):
        write_tflite(convolution(3, 1, [0, 0, 0, 0], 9))
