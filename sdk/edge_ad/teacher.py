"""Teacher files: a PDN's weights with a description, as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from edge_ad.checkpoint import load_module, load_tensors, save_tensors
from edge_ad.nets.architecture import architecture
from edge_ad.nets.pdn import Pdn
from edge_ad.teacher_store.catalogue import PUBLISHED
from edge_ad.teacher_store.folders import digest, is_name, stored_teachers, verified
from edge_ad_runtime.errors import InputError, RunError

FORMAT = "edge-ad teacher 1"


def save_teacher(
    path: Path, net: Pdn, size: str, provenance: dict[str, Any], precision: Literal["fp32", "fp16"] = "fp32"
) -> None:
    """Write a teacher file, atomically; ``fp16`` halves its size and rounds the weights.

    Raises:
        InputError: a weight is not finite, or too large for fp16.
    """
    weights = net.state_dict()
    if precision == "fp16":
        weights = {k: v.half() for k, v in weights.items()}
    bad = [k for k, v in weights.items() if not torch.isfinite(v).all()]
    if bad:
        raise InputError(f"{path}: the teacher's weights {', '.join(bad)} are not finite in {precision}")
    meta = {"format": FORMAT, "size": size, "channels": net.out_channels, "provenance": provenance}
    save_tensors(path, weights, meta)


def load_teacher(path: Path, padded: bool = False) -> tuple[Pdn, str, dict[str, Any]]:
    """Read a teacher file; returns the frozen network (float32), its size's name and its provenance.

    Raises:
        RunError: the file is missing, damaged, or not a teacher.
    """
    tensors, meta = load_tensors(path)
    if meta.get("format") != FORMAT:
        raise RunError(f"{path}: is not an edge-ad teacher file (format '{meta.get('format')}')")
    net = Pdn(architecture(meta["size"]).pdn.layers(int(meta["channels"])), padded)
    load_module(net, tensors, "", path)
    net.requires_grad_(False)
    return net.eval(), str(meta["size"]), dict(meta["provenance"])


def find_teacher(size: str, given: Path | None) -> tuple[Path, str, str]:
    """The teacher's file, a name for the record, and its SHA-256.

    Args:
        size: whose own teacher it is when none is given.
        given: a file, or the name of a teacher that ``edge-ad teachers`` lists.

    Raises:
        RunError: there is no such file or name, or no teacher of this size here, or its file is damaged.
    """
    if given is not None and given.is_file():
        return given, given.name, digest(given)
    name = size if given is None else str(given)
    stored = stored_teachers().get(name)
    if stored is not None:
        path = verified(stored)
        return path, f"{stored.place} {path.name}", digest(path)
    if given is None:
        raise RunError(
            f"no teacher of size '{size}' comes with edge-ad; give one with --teacher ('edge-ad teachers' lists those "
            "to be had by name, edge-ad distill makes one)"
        )
    if name in PUBLISHED:
        raise RunError(f"the teacher '{name}' is not here yet; 'edge-ad teachers fetch {name}' fetches it")
    hint = ", and 'edge-ad teachers' lists none of that name" if is_name(given) else ""
    raise RunError(f"{given}: there is no such teacher file{hint}")
