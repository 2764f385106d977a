"""Inference engines behind one narrow interface."""

from __future__ import annotations

from typing import get_args

import msgspec

from edge_ad_runtime.cores import stay_on
from edge_ad_runtime.engines.base import Engine, Precision, RawMaps, Target
from edge_ad_runtime.engines.options import EngineOptions
from edge_ad_runtime.errors import BundleError, InputError

__all__ = [
    "PRECISIONS",
    "TARGETS",
    "Engine",
    "EngineOptions",
    "Precision",
    "RawMaps",
    "Target",
    "engine_name",
    "open_engine",
]

TARGETS: tuple[Target, ...] = get_args(Target)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def open_engine(
    target: Target,
    model: bytes,
    precision: Precision,
    threads: int | None = None,
    options: EngineOptions | None = None,
) -> Engine:
    """Open a model file's content in the engine of its target.

    With ``options.cpus`` the calling thread stays on these cores from now on, and so does every thread and process that it
    starts.

    Args:
        target: one of :data:`TARGETS`, as the bundle's manifest names it.
        model: the model file.
        precision: what the model was converted to; an engine that computes fp16 is told so here.
        threads: CPU threads, in place of those of ``options``; None there, too, lets the engine use all cores.
        options: how the engine uses the machine; None is its defaults.

    Raises:
        BundleError: the engine refuses the model.
        InputError: the options name cores that are not here.
        MissingExtra: the engine's package is not installed.
    """
    options = options or EngineOptions()
    if threads is not None:
        options = msgspec.structs.replace(options, threads=threads)
    if options.cpus is not None:
        stay_on(options.cpus)
    if target == "ort":
        from edge_ad_runtime.engines.ort import OrtEngine

        return OrtEngine(model, options)
    if target == "openvino":
        from edge_ad_runtime.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, precision, options)
    if target == "tflite":
        from edge_ad_runtime.engines.tflite import TfliteEngine

        return TfliteEngine(model, options)
    if target == "tensorrt":
        from edge_ad_runtime.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(model, precision)
    raise BundleError(f"target '{target}' is unknown here; known are {', '.join(TARGETS)}. Update edge-ad")


def engine_name(target: Target) -> str:
    """The engine of a CPU's target with its version, as :attr:`Engine.name`, without opening a model.

    Raises:
        InputError: the target computes on a GPU.
        MissingExtra: the engine's package is not installed.
    """
    if target == "ort":
        from edge_ad_runtime.engines import ort

        return ort.engine_name()
    if target == "openvino":
        from edge_ad_runtime.engines import openvino

        return openvino.engine_name()
    if target == "tflite":
        from edge_ad_runtime.engines import tflite

        return tflite.engine_name()
    raise InputError(f"the target '{target}' does not compute on this machine's cores")
