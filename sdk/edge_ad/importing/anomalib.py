"""anomalib's EfficientAd: Lightning checkpoints and teacher weights.

Names and shapes were confirmed on anomalib 2.7.0; tests/studies/anomalib_import.py compares the maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edge_ad.importing.archive import StoredTensor, TorchFile
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
from edge_ad.importing.pickled import mapping
from edge_ad.nets.architecture import Architecture
from edge_ad_runtime.errors import InputError

CHECKPOINT = "anomalib checkpoint"
TEACHER = "anomalib teacher"
_MODEL, _PRE_PROCESSOR = "model.", "anomalib_pre_processor_config"
_STATISTICS = ("mean_std.mean", "mean_std.std")
_QUANTILES = ("quantiles.qa_st", "quantiles.qb_st", "quantiles.qa_ae", "quantiles.qb_ae")


def read_checkpoint(file: TorchFile) -> ForeignNets:
    """The nets of a Lightning checkpoint of EfficientAd.

    Its quantiles are left out: they were fitted on maps with a border of zeros and, by anomalib's defaults, on
    test images.

    Raises:
        InputError: it is a checkpoint of something else, is damaged, or was saved before the training.
    """
    checkpoint = mapping(file.root)
    state = checkpoint.get("state_dict", {}) if checkpoint else {}
    tensors = {k.removeprefix(_MODEL): v for k, v in mapping(state).items() if _is_weight(k, v)}
    weights = Weights(file, tensors)
    teacher = _pdn_layers(tensors, "teacher.")
    if not teacher:
        raise InputError(
            f"{file.name}: is not a checkpoint of anomalib's EfficientAd: it holds {shorten(mapping(state))}"
        )
    shape = recognize(weights, teacher)
    student = [name.replace("teacher.", "student.", 1) for name in teacher]
    own = empty_autoencoder(shape)
    autoencoder = {key: f"ae.{_autoencoder_name(key)}" for key in conv_names(own)}
    convs = (*teacher, *student, *autoencoder.values())
    known = {f"{name}.{part}" for name in convs for part in PARTS} | {*_STATISTICS, *_QUANTILES}
    if unknown := {k: v for k, v in tensors.items() if k not in known}:
        raise InputError(
            f"{file.name}: holds weights that EfficientAd does not have ({shorten(unknown)}); it is another model"
        )
    mean, std = (weights.read(name, (1, shape.teacher_channels, 1, 1)) for name in _STATISTICS)
    if not (std > 0).all():
        raise InputError(
            f"{file.name}: the teacher's deviations are not positive: it was saved before the training, or is damaged"
        )
    options = mapping(checkpoint.get("hyper_parameters"))
    padded = options.get("padding")
    return ForeignNets(
        origin=CHECKPOINT,
        architecture=shape,
        nets={
            "teacher": read_pdn(weights, teacher, shape, shape.teacher_channels),
            "student": read_pdn(weights, student, shape, 2 * shape.teacher_channels),
            "autoencoder": read_module(weights, autoencoder, own),
        },
        teacher_mean=mean,
        teacher_std=std,
        padded=padded if isinstance(padded, bool) else None,
        image_size=_image_size(mapping(checkpoint.get(_PRE_PROCESSOR))),
    )


def read_teacher(file: TorchFile) -> tuple[Architecture, dict[str, Tensor]]:
    """A teacher's state dict with the names ``conv1.weight``, …

    Raises:
        InputError: it is something else, or damaged.
    """
    weights = Weights(file, {k: v for k, v in mapping(file.root).items() if isinstance(v, StoredTensor)})
    layers = _pdn_layers(weights.tensors, "")
    shape = recognize(weights, layers)
    if unknown := {k: v for k, v in weights.tensors.items() if k.rpartition(".")[0] not in layers}:
        raise InputError(
            f"{file.name}: holds weights that a teacher does not have ({shorten(unknown)}); it is another model"
        )
    return shape, read_pdn(weights, layers, shape, shape.teacher_channels)


def _is_weight(key: Any, value: Any) -> bool:
    return isinstance(key, str) and key.startswith(_MODEL) and isinstance(value, StoredTensor)


def _pdn_layers(tensors: Mapping[str, StoredTensor], prefix: str) -> list[str]:
    """``conv1``, ``conv2``, … as far as they go."""
    layers: list[str] = []
    while f"{prefix}conv{len(layers) + 1}.weight" in tensors:
        layers.append(f"{prefix}conv{len(layers) + 1}")
    return layers


def _autoencoder_name(key: str) -> str:
    half, _, index = key.partition(".")
    return f"{half}.{'en' if half == 'encoder' else 'de'}conv{int(index) + 1}"


def _image_size(config: Mapping[Any, Any]) -> tuple[int, int] | None:
    """Height and width, if the pre-processor's description (anomalib 2.7 on) is one resizing to both."""
    transform = config.get("transform")
    match transform:
        case {"init_args": {"transforms": [single]}}:
            transform = single
    match transform:
        case {"class_path": str(path), "init_args": {"size": [int(height), int(width)]}} if path.endswith(
            ".Resize"
        ):
            return height, width
    return None
