"""Files as anomalib and nelson1425 write them, and their forward passes, from the papers' tables and plain torch.

Nothing of edge-ad is used here, so that a mistake there cannot hide in both.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 8
DECODER = (3, 8, 15, 32, 63, 127)


def pdn(size: str, out: int, padding: bool) -> nn.Sequential:
    """A patch description network as nelson1425 builds it."""
    p = int(padding)
    wide = {"s": (128, 256), "m": (256, 512)}[size]
    layers: list[nn.Module] = [
        nn.Conv2d(3, wide[0], 4, padding=3 * p), nn.ReLU(inplace=True), nn.AvgPool2d(2, 2, padding=p),
        nn.Conv2d(wide[0], wide[1], 4, padding=3 * p), nn.ReLU(inplace=True), nn.AvgPool2d(2, 2, padding=p),
    ]  # fmt: skip
    if size == "m":
        layers += [nn.Conv2d(512, 512, 1), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(wide[1], wide[1], 3, padding=p), nn.ReLU(inplace=True), nn.Conv2d(wide[1], out, 4)]
    if size == "m":
        layers += [nn.ReLU(inplace=True), nn.Conv2d(out, out, 1)]
    return nn.Sequential(*layers)


def autoencoder(out: int, dropout: bool = False, last: int = 56) -> nn.Sequential:
    """The autoencoder as nelson1425 builds it; a later state of that code has dropout."""
    layers: list[nn.Module] = []
    for a, b in ((3, 32), (32, 32), (32, 64), (64, 64), (64, 64)):
        layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(64, 64, 8))
    for size in DECODER:
        layers += [
            nn.Upsample(size=size, mode="bilinear"),
            nn.Conv2d(64, 64, 4, padding=2),
            nn.ReLU(inplace=True),
        ]
        layers += [nn.Dropout(0.2)] if dropout else []
    layers += [
        nn.Upsample(size=last, mode="bilinear"),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, nn.Conv2d(64, out, 3, padding=1))


def write_nelson(folder: Path, size: str = "s", dropout: bool = False, seed: int = 0) -> Path:
    """The three nets saved whole, as nelson1425's training leaves them."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    nets = {"teacher": pdn(size, CHANNELS, False), "student": pdn(size, 2 * CHANNELS, False)}
    nets["autoencoder"] = autoencoder(CHANNELS, dropout)
    for name, net in nets.items():
        torch.save(net.eval(), folder / f"{name}_final.pth")
    return folder


def load_nelson(folder: Path) -> dict[str, nn.Module]:
    """Load the files as nelson1425's code does, which runs whatever they say: only for files of these tests."""
    return {
        n: torch.load(folder / f"{n}_final.pth", weights_only=False)
        for n in ("teacher", "student", "autoencoder")
    }


def anomalib_state(size: str = "s", seed: int = 0, channels: int = CHANNELS) -> dict[str, Tensor]:
    """``state_dict`` of anomalib's EfficientAd with random weights."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, out in (("teacher", channels), ("student", 2 * channels)):
        convs = [m for m in pdn(size, out, False) if isinstance(m, nn.Conv2d)]
        state |= _named(f"model.{name}.conv", convs)
    convs = [m for m in autoencoder(channels) if isinstance(m, nn.Conv2d)]
    state |= _named("model.ae.encoder.enconv", convs[:6]) | _named("model.ae.decoder.deconv", convs[6:])
    state["model.mean_std.mean"] = 0.1 * torch.randn(1, channels, 1, 1)
    state["model.mean_std.std"] = 0.05 + torch.rand(1, channels, 1, 1)
    for name, value in (("qa_st", 0.4), ("qb_st", 0.9), ("qa_ae", 0.1), ("qb_ae", 0.3)):
        state[f"model.quantiles.{name}"] = torch.tensor(value)
    for name in ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max"):
        state[f"post_processor.{name}"] = torch.tensor(float("nan"))
    return state


def _named(prefix: str, convs: list[nn.Conv2d]) -> dict[str, Tensor]:
    return {
        f"{prefix}{i + 1}.{part}": value.detach().clone()
        for i, conv in enumerate(convs)
        for part, value in (("weight", conv.weight), ("bias", conv.bias))
        if value is not None
    }


@contextmanager
def anomalib_classes() -> Iterator[tuple[Any, Any]]:
    """An enum and a mapping in a module ``anomalib`` that is there only while a file is written."""

    class EfficientAdModelSize(str, enum.Enum):
        __module__, __qualname__ = "anomalib", "EfficientAdModelSize"
        S = "small"

    class AttributeDict(dict[str, Any]):
        __module__, __qualname__ = "anomalib", "AttributeDict"

    module: Any = types.ModuleType("anomalib")
    vars(module).update(EfficientAdModelSize=EfficientAdModelSize, AttributeDict=AttributeDict)
    sys.modules["anomalib"] = module
    try:
        yield EfficientAdModelSize, AttributeDict
    finally:
        del sys.modules["anomalib"]


def write_anomalib(path: Path, state: dict[str, Any], padding: bool | None = None, **more: Any) -> Path:
    """A Lightning checkpoint with hyper-parameters of classes that cannot be imported when it is read."""
    with anomalib_classes() as (sizes, mapping):
        options = mapping(model_size=sizes.S, imagenet_dir=path.parent, pad_maps=True)
        if padding is not None:
            options["padding"] = padding
        torch.save({"epoch": 1, "state_dict": state, "hyper_parameters": options, **more}, path)
    return path


def resize_to(height: int, width: int) -> dict[str, Any]:
    """anomalib 2.7's description of its pre-processor."""
    resize = {
        "class_path": "torchvision.transforms.v2.Resize",
        "init_args": {"size": [height, width], "antialias": True},
    }
    return {
        "transform": {
            "class_path": "torchvision.transforms.v2.Compose",
            "init_args": {"transforms": [resize]},
        }
    }


def anomalib_pdn(state: dict[str, Tensor], name: str, image: Tensor, padding: bool) -> Tensor:
    """Teacher or student, on an ImageNet-normalized image."""
    p = int(padding)

    def conv(number: int, x: Tensor, pad: int = 0) -> Tensor:
        weight, bias = (state[f"model.{name}.conv{number}.{part}"] for part in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=pad)

    x = F.avg_pool2d(F.relu(conv(1, image, 3 * p)), 2, 2, padding=p)
    x = F.avg_pool2d(F.relu(conv(2, x, 3 * p)), 2, 2, padding=p)
    if f"model.{name}.conv5.weight" not in state:
        return conv(4, F.relu(conv(3, x, p)))
    return conv(6, F.relu(conv(5, F.relu(conv(4, F.relu(conv(3, x)), p)))))


def anomalib_autoencoder(state: dict[str, Tensor], image: Tensor, padding: bool) -> Tensor:
    """The autoencoder, on an ImageNet-normalized image."""

    def conv(x: Tensor, name: str, stride: int, pad: int) -> Tensor:
        weight, bias = (state[f"model.ae.{name}.{part}"] for part in ("weight", "bias"))
        return F.conv2d(x, weight, bias, stride=stride, padding=pad)

    x, (h, w) = image, image.shape[-2:]
    for i in range(5):
        x = F.relu(conv(x, f"encoder.enconv{i + 1}", 2, 1))
    x = conv(x, "encoder.enconv6", 1, 0)
    sizes = [(h // d - c, w // d - c) for d, c in ((64, 1), (32, 0), (16, 1), (8, 0), (4, 1), (2, 1))]
    for i, size in enumerate(sizes):
        x = F.relu(conv(F.interpolate(x, size=size, mode="bilinear"), f"decoder.deconv{i + 1}", 1, 2))
    less = 0 if padding else 8
    x = F.interpolate(x, size=(-(-h // 4) - less, -(-w // 4) - less), mode="bilinear")
    return conv(F.relu(conv(x, "decoder.deconv7", 1, 1)), "decoder.deconv8", 1, 1)


def maps(teacher: Tensor, student: Tensor, auto: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Both raw maps."""
    channels = teacher.shape[1]
    st = (((teacher - mean) / std - student[:, :channels]) ** 2).mean(1)
    return st, ((auto - student[:, channels:]) ** 2).mean(1)


def normalized(image: Tensor) -> Tensor:
    """ImageNet's normalization, as anomalib's nets do first."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (image - mean[None, :, None, None]) / std[None, :, None, None]
