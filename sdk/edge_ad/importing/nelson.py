"""nelson1425's EfficientAD: three nets saved whole, and teacher weights.

The nets are ``nn.Sequential`` with layers that carry their own options, so these are compared with this
package's nets: strides and paddings that the shapes of the weights do not show would change the maps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from edge_ad.importing.archive import StoredTensor, TorchFile, open_torch_file
from edge_ad.importing.layers import (
    PARTS,
    ForeignNets,
    Weights,
    conv_names,
    empty_autoencoder,
    read_module,
    read_pdn,
    recognize,
    shorten,
)
from edge_ad.importing.pickled import Record, mapping
from edge_ad.nets.architecture import Architecture
from edge_ad.nets.autoencoder import Autoencoder, decoder_sizes
from edge_ad.nets.pdn import map_size
from edge_ad_runtime.errors import InputError

NETS = "nelson1425 nets"
TEACHER = "nelson1425 teacher"
FILES = {
    "teacher": "teacher_final.pth",
    "student": "student_final.pth",
    "autoencoder": "autoencoder_final.pth",
}
_Layer: TypeAlias = tuple[Any, ...]
_CONV, _RELU, _POOL, _RESIZE = "Conv2d", "ReLU", "AvgPool2d", "Upsample"


def read_folder(folder: Path) -> ForeignNets:
    """The three nets that a training left in a folder.

    Raises:
        InputError: a file is missing or damaged, or holds another net.
    """
    if missing := [name for name in FILES.values() if not (folder / name).is_file()]:
        raise InputError(
            f"{folder}: {', '.join(missing)} is missing; a folder to import holds {', '.join(FILES.values())}"
        )
    with contextlib.ExitStack() as stack:
        files = {
            net: stack.enter_context(open_torch_file(folder / name, str(folder / name)))
            for net, name in FILES.items()
        }
        return _read_nets(files)


def read_teacher(file: TorchFile) -> tuple[Architecture, dict[str, Tensor]]:
    """A teacher's state dict with the names ``0.weight``, ``3.weight``, …

    Raises:
        InputError: it is something else, or damaged.
    """
    weights = Weights(file, {k: v for k, v in mapping(file.root).items() if isinstance(v, StoredTensor)})
    layers = _numbered(weights)
    shape = recognize(weights, layers)
    return shape, read_pdn(weights, layers, shape, shape.teacher_channels)


def is_sequential(value: Any) -> bool:
    """Whether a saved value is an ``nn.Sequential``."""
    return (
        isinstance(value, Record)
        and value.of.module.startswith("torch.nn.")
        and value.of.name == "Sequential"
    )


def _read_nets(files: dict[str, TorchFile]) -> ForeignNets:
    layers = {net: _layers(file) for net, file in files.items()}
    weights = {net: _weights(file) for net, file in files.items()}
    names = {net: _numbered(w) for net, w in weights.items()}
    shape = recognize(weights["teacher"], names["teacher"])
    channels = shape.teacher_channels
    padded = _padded(files["teacher"], layers["teacher"], shape, channels)
    if _padded(files["student"], layers["student"], shape, 2 * channels) != padded:
        raise InputError(f"{files['student'].name}: teacher and student do not pad alike")
    size = _image_size(files["autoencoder"], layers["autoencoder"], shape, padded)
    own = empty_autoencoder(shape)
    if len(names["autoencoder"]) != len(conv_names(own)):
        raise InputError(
            f"{files['autoencoder'].name}: has {len(names['autoencoder'])} convolutions; EfficientAD's autoencoder "
            f"has {len(conv_names(own))}"
        )
    autoencoder = dict(zip(conv_names(own), names["autoencoder"], strict=True))
    return ForeignNets(
        origin=NETS,
        architecture=shape,
        nets={
            "teacher": read_pdn(weights["teacher"], names["teacher"], shape, channels),
            "student": read_pdn(weights["student"], names["student"], shape, 2 * channels),
            "autoencoder": read_module(weights["autoencoder"], autoencoder, own),
        },
        padded=padded,
        image_size=size,
    )


def _modules(file: TorchFile) -> dict[str, Record]:
    if not is_sequential(file.root):
        raise InputError(
            f"{file.name}: holds no nn.Sequential saved whole, as nelson1425's training leaves it"
        )
    modules = mapping(mapping(file.root.state).get("_modules"))
    if not modules or not all(isinstance(m, Record) and isinstance(m.state, dict) for m in modules.values()):
        raise InputError(f"{file.name}: the saved net has no layers, or is damaged")
    return {str(name): module for name, module in modules.items()}


def _weights(file: TorchFile) -> Weights:
    tensors = {
        f"{name}.{part}": stored
        for name, module in _modules(file).items()
        for part, stored in mapping(module.state.get("_parameters")).items()
        if isinstance(stored, StoredTensor)
    }
    return Weights(file, tensors)


def _numbered(weights: Weights) -> list[str]:
    """The names of the convolutions in the order of their numbers; nothing else may have weights."""
    names = {name.rpartition(".")[0] for name in weights.tensors}
    complete = {f"{name}.{part}" for name in names for part in PARTS}
    if not names or not all(n.isdecimal() for n in names) or complete != set(weights.tensors):
        raise InputError(
            f"{weights.file.name}: is not a net of EfficientAD: it holds {shorten(weights.tensors)}"
        )
    return sorted(names, key=int)


def _layers(file: TorchFile) -> list[_Layer]:
    """What the layers do, in the order they run; dropout, which does nothing after the training, is left out."""
    found: list[_Layer] = []
    for name, module in _modules(file).items():
        kind, s = module.of.name, module.state
        if kind == _CONV:
            keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
            found.append((kind, *(s.get(k) for k in keys)))
        elif kind == _RELU:
            found.append((kind,))
        elif kind == _POOL:
            keys = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            found.append((kind, *(s.get(k) for k in keys)))
        elif kind == _RESIZE:
            size = s.get("size")
            size = (size, size) if isinstance(size, int) else size
            # align_corners of None and False are the same.
            found.append((kind, size, s.get("mode"), bool(s.get("align_corners"))))
        elif kind != "Dropout":
            raise InputError(f"{file.name}: layer {name} is a {module.of}, which EfficientAD does not have")
    return found


def _padded(file: TorchFile, layers: Sequence[_Layer], shape: Architecture, channels: int) -> bool:
    for padded in (False, True):
        expected: list[_Layer] = []
        for spec in shape.pdn.layers(channels):
            expected.append(_conv(spec.kernel, 1, spec.padding if padded else 0))
            expected += [(_RELU,)] if spec.relu else []
            expected += [(_POOL, 2, 2, int(padded), False, True, None)] if spec.pool else []
        if expected == list(layers):
            return padded
    raise InputError(
        f"{file.name}: its layers are not those of a patch description network of size {shape.name} "
        "(stride, padding or order differ)"
    )


def _image_size(
    file: TorchFile, layers: Sequence[_Layer], shape: Architecture, padded: bool
) -> tuple[int, int]:
    """The image size, which the autoencoder's last resizing but one is half of, less one."""
    sizes = [layer[1] for layer in layers if layer[0] == _RESIZE]
    match sizes[-2:]:
        case [(int(height), int(width)), _] if min(height, width) > 0:
            size = (2 * (height + 1), 2 * (width + 1))
            grid = map_size(shape.pdn.layers(shape.teacher_channels), padded, *size)
            if list(layers) == _autoencoder_layers(empty_autoencoder(shape), decoder_sizes(size), grid):
                return size
    raise InputError(
        f"{file.name}: its layers are not those of EfficientAD's autoencoder (stride, padding, order or the sizes that it "
        "resizes to differ)"
    )


def _autoencoder_layers(
    own: Autoencoder, sizes: Sequence[tuple[int, int]], grid: tuple[int, int]
) -> list[_Layer]:
    layers: list[_Layer] = []
    for conv in own.encoder:
        layers += [_as_layer(conv), (_RELU,)]
    layers.pop()
    for size, conv in zip([*sizes, grid], own.decoder, strict=False):
        layers += [(_RESIZE, size, "bilinear", False), _as_layer(conv), (_RELU,)]
    return [*layers, _as_layer(own.decoder[-1])]


def _as_layer(conv: nn.Module) -> _Layer:
    assert isinstance(conv, nn.Conv2d)
    return _conv(conv.kernel_size[0], conv.stride[0], int(conv.padding[0]))


def _conv(kernel: int, stride: int, padding: int) -> _Layer:
    return (_CONV, (kernel, kernel), (stride, stride), (padding, padding), (1, 1), 1, "zeros")
