"""Extractors: every kind of file gives what its network computes, and a wrong one is named."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from edge_ad.distill.extractors import ExtractorOptions, open_extractor, probe
from edge_ad.distill.features import Features, InputRange, input_batch, patch_features, read_features
from edge_ad.distill.modules import ModuleExtractor
from edge_ad.distill.resnet import ResNet50V2
from edge_ad.distill.tflite import TfliteExtractor
from edge_ad_runtime.errors import EdgeAdError, InputError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.preprocess import resize
from tests.distill.common import Tapped, TwoLayers, noise

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(), reason="needs the extractors' weights, which are not in the repository"
)
RESNET = SHARED / "weights" / "resnet50v2_stages1-3_fp16.safetensors"
MOBILENET = SHARED / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
EXACT = ExtractorOptions(bf16=False)


def expected(values: InputRange = "imagenet", side: int = 64) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        fine, coarse = Tapped(TwoLayers())(input_batch(noise(side), values))
    return fine, coarse


def assert_taps(features: Features, values: InputRange = "imagenet") -> None:
    for got, want in zip(features.tensors, expected(values), strict=True):
        assert got.shape == want.shape
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-5)


def write_onnx(
    path: Path, outputs: tuple[str, ...] = ("head",), batch: int | str = "n", last: bool = False
) -> Path:
    """The network of :class:`TwoLayers`, written by hand: tensors ``fine``, ``coarse`` and the head."""
    net = TwoLayers()
    weights = [
        numpy_helper.from_array(p.detach().numpy(), n.replace(".", "_")) for n, p in net.named_parameters()
    ]
    entry = "first" if last else "image"
    nodes = [helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])] if last else []
    for source, out, layer, stride in (
        (entry, "fine", "layer2", 8),
        ("fine_on", "coarse", "layer3", 2),
        ("coarse_on", "head", "layer4", 2),
    ):
        inputs = [source, f"{layer}_weight", f"{layer}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [out], strides=[stride, stride]))
        nodes.append(helper.make_node("Relu", [out], [f"{out}_on"]))
    if last:
        nodes += [
            helper.make_node("Transpose", [f], [f"{f}_last"], perm=[0, 2, 3, 1]) for f in ("fine", "coarse")
        ]
    shape = [batch, "h", "w", 3] if last else [batch, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "two layers",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def quietly(make: Callable[..., Any], *arguments: Any) -> Any:
    """Call what torch calls deprecated: TorchScript's own functions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make(*arguments)


def write_torchscript(path: Path, module: torch.nn.Module, example: Tensor | None = None) -> Path:
    script: Any = torch.jit
    if example is None:
        quietly(script.script, module.eval()).save(str(path))
    else:
        quietly(script.trace, module.eval(), example).save(str(path))
    return path


def test_onnx_inner_tensors_are_tapped(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx")
    extractor = open_extractor(str(path), ExtractorOptions(("fine", "coarse")))
    features = extractor(noise())
    assert_taps(features)
    assert [str(layer) for layer in features.layers] == [
        "fine (NCHW, 24 channels, 8x8 cells)",
        "coarse (NCHW, 40 channels, 4x4 cells)",
    ]
    assert extractor.record["extractor_input"] == "imagenet"
    # Named in the other order, or only one of them.
    assert_taps(open_extractor(str(path), ExtractorOptions(("coarse", "fine")))(noise()))
    (one,) = open_extractor(str(path), ExtractorOptions(("fine",)))(noise()).tensors
    assert torch.allclose(one, expected()[0], rtol=1e-4, atol=1e-5)
    assert patch_features([one]).shape == (2, 24, 8, 8)


@pytest.mark.parametrize("values", ["0..1", "-1..1", "uint8"])
def test_onnx_outputs_batch_of_one_and_ranges(tmp_path: Path, values: InputRange) -> None:
    path = write_onnx(tmp_path / "net.onnx", ("fine", "coarse"), batch=1)
    features = open_extractor(str(path), ExtractorOptions(values=values))(noise())
    for got, want in zip(features.tensors, expected(values), strict=True):
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-3 if values == "uint8" else 1e-5)


def test_onnx_channels_last(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", ("fine_last", "coarse_last"), last=True)
    features = open_extractor(str(path))(noise())
    assert_taps(features)
    assert {layer.layout for layer in features.layers} == {"NHWC"}
    # Channels-last in, channels-first inside.
    assert_taps(open_extractor(str(path), ExtractorOptions(("fine", "coarse")))(noise()))


@pytest.mark.parametrize("traced", [False, True])
def test_torchscript_gives_the_modules_layers(tmp_path: Path, traced: bool) -> None:
    example = torch.zeros(1, 3, 32, 32) if traced else None
    path = write_torchscript(tmp_path / "net.pt", Tapped(TwoLayers()), example)
    assert_taps(open_extractor(str(path))(noise()))
    assert_taps(open_extractor(str(path), ExtractorOptions(("1", "0")))(noise()))
    with pytest.raises(InputError, match="returns no 'layer2'; it returns 0, 1"):
        open_extractor(str(path), ExtractorOptions(("layer2",)))(noise())


class Writer(torch.nn.Module):
    """Writes a file when it runs."""

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "written-by-the-model")
        return x


class Loaded(torch.nn.Module):
    """Runs code when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(1)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        torch.save(state[0], "written-by-the-model")
        self.weight, self.training = state

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_torchscript_that_does_more_than_compute_is_refused_unloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script: Any = torch.jit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, module, word in (("a.pt", Writer(), "save"), ("b.ts", Loaded(), "__setstate__|save")):
            script.script(module).save(name)
            Path("written-by-the-model").unlink(missing_ok=True)
            with pytest.raises(InputError, match=f"uses '({word})'"):
                open_extractor(name)
            assert not Path("written-by-the-model").exists()
        # The second one does run when torch loads it: the refusal is what keeps it from that.
        script.load("b.ts")
    assert Path("written-by-the-model").exists()


def test_a_pickle_is_no_torchscript(tmp_path: Path) -> None:
    torch.save(TwoLayers().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="not a TorchScript file"):
        open_extractor(str(tmp_path / "weights.pt"))


def stand_in_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for torchvision, which has no CPU build for this torch: ``models`` with its three functions.

    ``get_model_weights(name)[WEIGHTS].get_state_dict(…)`` and ``get_model(name, weights=None)`` behave as
    torchvision's do; the network is a small one with the same names of layers.
    """

    class Weights:
        url = "https://example.invalid/two_layers.pth"

        def get_state_dict(self, **options: Any) -> dict[str, Tensor]:
            assert options == {"progress": False, "check_hash": True, "weights_only": True}
            return TwoLayers().state_dict()

    def get_model_weights(name: str) -> dict[str, Weights]:
        if name != "two_layers":
            raise ValueError(f"Unknown model {name}")
        return {"IMAGENET1K_V1": Weights()}

    def get_model(name: str, weights: None) -> torch.nn.Module:
        net = TwoLayers()
        torch.nn.init.zeros_(net.layer2.weight)
        return net

    models = types.ModuleType("torchvision.models")
    models.__dict__.update(get_model_weights=get_model_weights, get_model=get_model)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_torchvision_by_name_with_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_torchvision(monkeypatch)
    extractor = open_extractor("torchvision:two_layers", EXACT)
    assert extractor.name == "torchvision:two_layers@IMAGENET1K_V1"
    assert_taps(extractor(noise()))
    named = ExtractorOptions(("layer2", "layer3"), bf16=False)
    assert_taps(open_extractor("torchvision:two_layers@IMAGENET1K_V1", named)(noise()))
    with pytest.raises(InputError, match="no model 'nothing'"):
        open_extractor("torchvision:nothing")
    with pytest.raises(InputError, match="weights 'V9'"):
        open_extractor("torchvision:two_layers@V9")
    with pytest.raises(
        InputError, match="no layer 'layer9'; its outermost layers are layer2, layer3, layer4"
    ):
        open_extractor("torchvision:two_layers", ExtractorOptions(("layer9",)))


def test_torchvision_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match="torchvision:wide_resnet101_2 needs torchvision, built for torch 2"):
        open_extractor("torchvision:wide_resnet101_2")


def test_module_stops_behind_its_last_tap() -> None:
    net = TwoLayers()
    ran: list[str] = []
    net.layer4.register_forward_hook(lambda *_: ran.append("layer4"))
    extractor = ModuleExtractor(net, "net", EXACT)
    extractor(noise())
    assert_taps(extractor(noise()))
    assert ran == []


def test_layout_of_an_ambiguous_shape() -> None:
    square = torch.arange(2 * 8 * 8 * 8.0).view(2, 8, 8, 8)
    coarse_last = torch.zeros(2, 4, 4, 5)
    assert read_features([("a", square)], 64, 64).layers[0].layout == "NCHW"
    assert read_features([("a", square)], 64, 64, channels_last_input=True).layers[0].layout == "NHWC"
    features = read_features([("a", square), ("b", coarse_last)], 64, 64)
    assert features.layers[0].layout == "NHWC"
    assert torch.equal(features.tensors[0], square.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([("logits", torch.zeros(1, 1000))], "output 'logits' is 1x1000 for 64x64 px: not a feature map"),
        ([("a", torch.zeros(1, 9, 16, 16))], r"finest layer is a \(NCHW, 9 channels, 16x16 cells\).*8x8"),
        ([(n, torch.zeros(1, 9, 8, 8)) for n in "abc"], r"3 outputs \(a, b, c\)"),
    ],
)
def test_outputs_that_do_not_do(outputs: list[tuple[str, Tensor]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_features(outputs, 64, 64)


@needs_shared
def test_resnet_reproduces_its_own_batch_statistics() -> None:
    """The inputs of stage 4's first norm agree with the running means that ImageNet training left in it."""
    extractor = open_extractor(str(RESNET))
    assert isinstance(extractor, ResNet50V2)
    paths = sorted((SHARED / "imagenet1k_sample").glob("*.JPEG"))[::125]
    means = [extractor([resize(read_image(p), 224, 224)]).tensors[1].mean((0, 2, 3)) for p in paths]
    measured = torch.stack(means).mean(0)
    stored = extractor.weights["stage4_batchnorm0_running_mean"]
    assert np.corrcoef(measured.numpy(), stored.numpy())[0, 1] > 0.9


@needs_shared
@pytest.mark.parametrize(("path", "channels"), [(RESNET, 1536), (MOBILENET, 768)])
def test_extractors_give_patch_features(path: Path, channels: int) -> None:
    (image,) = noise(128, 1)
    features = patch_features(open_extractor(str(path))([image, image]).tensors)
    assert features.shape == (2, channels, 16, 16)
    assert torch.allclose(features[0], features[1], atol=1e-2)
    assert features.std() > 0


@needs_shared
def test_mobilenet_layers_by_name_are_its_default_ones() -> None:
    (image,) = noise(128, 1)
    default = open_extractor(str(MOBILENET))([image])
    assert [(layer.layout, layer.channels) for layer in default.layers] == [("NHWC", 192), ("NHWC", 576)]
    names = tuple(layer.name for layer in default.layers)
    named = open_extractor(str(MOBILENET), ExtractorOptions(names))([image])
    assert all(torch.equal(a, b) for a, b in zip(default.tensors, named.tensors, strict=True))
    # Its integer input is quantized from -1 to 1, so that range says the same.
    ranges: tuple[InputRange, ...] = ("-1..1", "0..1")
    distances = []
    for values in ranges:
        (fine, _) = open_extractor(str(MOBILENET), ExtractorOptions(values=values))([image]).tensors
        distances.append(float((fine - default.tensors[0]).abs().mean() / default.tensors[0].abs().mean()))
    assert distances[0] < 0.1
    assert distances[1] > 0.3
    other = open_extractor(str(MOBILENET), ExtractorOptions(("expanded_conv_7/expand/",)))([image])
    assert torch.equal(other.tensors[0], default.tensors[0])
    with pytest.raises(InputError, match="no feature map named 'nothing'"):
        open_extractor(str(MOBILENET), ExtractorOptions(("nothing",)))([image])
    assert isinstance(open_extractor(str(MOBILENET)), TfliteExtractor)


@pytest.mark.parametrize("suffix", [".tflite", ".safetensors", ".onnx", ".pt", ".ts"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    wrong = tmp_path / f"wrong{suffix}"
    for content in (b"this is not a network, only text that pretends to be one", b""):
        wrong.write_bytes(content)
        with pytest.raises(EdgeAdError, match=f"wrong{suffix}"):
            open_extractor(str(wrong))


def test_wrong_sources_and_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such extractor"):
        open_extractor(str(tmp_path / "missing.tflite"))
    (tmp_path / "net.pkl").write_bytes(b"x")
    with pytest.raises(InputError, match="an extractor is a"):
        open_extractor(str(tmp_path / "net.pkl"))
    with pytest.raises(InputError, match="one or two different names"):
        ExtractorOptions(("a", "a"))
    path = str(write_onnx(tmp_path / "net.onnx"))
    with pytest.raises(InputError, match="no tensor 'fin'; there are fine"):
        open_extractor(path, ExtractorOptions(("fin",)))
    with pytest.raises(InputError, match="finest layer is head"):
        probe(open_extractor(path), 64)


def test_fixed_size_is_said(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "net.onnx", ("fine", "coarse"))
    model = onnx.load(str(path))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value = dims[3].dim_value = 64
    onnx.save(model, str(path))
    assert_taps(open_extractor(str(path))(noise(64)))
    with pytest.raises(InputError, match="takes 64x64 px only, and would be given 128x128"):
        open_extractor(str(path))(noise(128))
