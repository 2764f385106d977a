"""Extractors from torch modules: any module with named submodules, and torchvision's by name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_ad.distill.extractors import Extractor, ExtractorOptions
from edge_ad.distill.features import Features, InputRange, input_batch, read_features
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.types import Image

# PatchCore's and the paper's choice, and the weights of their time.
_LAYERS = ("layer2", "layer3")
_WEIGHTS = "IMAGENET1K_V1"


class _Tapped(Exception):
    """All layers are known; the rest of the network need not run."""


class ModuleExtractor:
    """Taps the outputs of submodules of a torch module that takes ``float32 Nx3xHxW``."""

    def __init__(self, module: nn.Module, name: str, options: ExtractorOptions) -> None:
        self.name = name
        self._values: InputRange = options.values or "imagenet"
        self._layers = options.layers or _LAYERS
        self._device, self._bf16 = torch.device(options.device), options.bf16
        self._module = module.eval().requires_grad_(False).to(self._device)
        submodules = dict(module.named_modules())
        self._taps: dict[str, Tensor] = {}
        for layer in self._layers:
            if layer not in submodules:
                top = ", ".join(n for n in submodules if n and "." not in n)
                raise InputError(f"{name}: has no layer '{layer}'; its outermost layers are {top}")
            submodules[layer].register_forward_hook(self._hook(layer))
        self.record = {"extractor_layers": ",".join(self._layers), "extractor_input": self._values}

    def __call__(self, images: Sequence[Image]) -> Features:
        batch = input_batch(images, self._values).to(self._device)
        self._taps.clear()
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            try:
                self._module(batch.contiguous(memory_format=torch.channels_last))
            except _Tapped:
                pass
            else:
                missing = [layer for layer in self._layers if layer not in self._taps]
                raise InputError(f"{self.name}: its forward pass does not run the layer '{missing[0]}'")
        return read_features([(n, self._taps[n]) for n in self._layers], *batch.shape[2:])

    def _hook(self, layer: str) -> Any:
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise InputError(f"{self.name}: the layer '{layer}' does not give one tensor; choose another")
            self._taps[layer] = output
            if len(self._taps) == len(self._layers):
                raise _Tapped

        return keep


def open_torchvision(name: str, options: ExtractorOptions) -> Extractor:
    """A torchvision model with pretrained weights: ``MODEL`` or ``MODEL@WEIGHTS`` (IMAGENET1K_V1).

    torchvision fetches the weights into its own cache, checked against the hash in their name; they are read
    as tensors only.

    Raises:
        InputError: torchvision is not installed or does not fit this torch, it knows no such model or
            weights, or they cannot be fetched.
    """
    model, _, weights = name.partition("@")
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"torchvision:{model} needs torchvision, built for torch {torch.__version__} "
            f"(pip install torchvision; {error})"
        ) from error
    try:
        chosen = models.get_model_weights(model)[weights or _WEIGHTS]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"torchvision has no model '{model}' with weights '{weights or _WEIGHTS}'"
        ) from error
    network = models.get_model(model, weights=None)
    try:
        network.load_state_dict(chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the weights of torchvision:{model} cannot be had ({error}); put {getattr(chosen, 'url', 'them')} "
            f"into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return ModuleExtractor(network, f"torchvision:{model}@{weights or _WEIGHTS}", options)
