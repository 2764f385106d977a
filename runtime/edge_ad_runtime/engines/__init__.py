"""Inference engines behind one narrow interface."""

from __future__ import annotations

from edge_ad_runtime.engines.base import Engine, RawMaps
from edge_ad_runtime.errors import BundleError

__all__ = ["TARGETS", "Engine", "RawMaps", "open_engine"]

TARGETS = ("ort",)


def open_engine(target: str, model: bytes, threads: int | None = None) -> Engine:
    """Open a model file's content in the engine of its target.

    Args:
        target: one of :data:`TARGETS`, as the bundle's manifest names it.
        model: the model file.
        threads: CPU threads; None lets the engine use all cores.

    Raises:
        BundleError: the target is unknown, or the engine refuses the model.
        MissingExtra: the engine's package is not installed.
    """
    if target == "ort":
        from edge_ad_runtime.engines.ort import OrtEngine

        return OrtEngine(model, threads)
    raise BundleError(f"target '{target}' is unknown here; known are {', '.join(TARGETS)}. Update edge-ad")
