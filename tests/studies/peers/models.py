"""What a step of the study made: model files, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge_ad_runtime.files import write_atomically

Graph = Literal["fused", "bare", "plain", "anomalib", "padim"]
EngineName = Literal["ort", "openvino", "tflite"]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model file.

    ``graph`` says what it takes and gives: ``fused`` is a bundle, ``bare`` a bundle's model file by itself, ``plain``
    that of :mod:`tests.studies.peers.plain`, ``anomalib`` gives a combined map at the image's resolution, ``padim``
    the distances of :mod:`tests.studies.compression.padim`. ``tool`` made the file; ``precision`` is ``fp32`` or
    ``int8``; ``settings`` are the engine's own, beside its threads.
    """

    name: str
    graph: Graph
    engine: EngineName
    precision: Literal["fp32", "int8"]
    tool: str
    file: str
    bytes: int
    settings: dict[str, str] = {}


class Made(msgspec.Struct, frozen=True):
    """The models of a step; ``failure`` says why some are missing, empty if none is."""

    models: tuple[Model, ...]
    failure: str = ""


def write_made(folder: Path, step: str, made: Made) -> None:
    """Keep a step's result in the study's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{step}.made.json", msgspec.json.format(msgspec.json.encode(made)))


def read_made(folder: Path) -> dict[str, Made]:
    """All steps' results, by step."""
    files = sorted(folder.glob("*.made.json"))
    return {f.name.removesuffix(".made.json"): msgspec.json.decode(f.read_bytes(), type=Made) for f in files}
