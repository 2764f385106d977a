"""The runs that are measured, and what is kept of each."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from edge_ad.conversion.model import ConvertedModel
from edge_ad.run_folder import read_config
from edge_ad_runtime.calibration import Calibration, decode_calibration, encode_calibration
from edge_ad_runtime.engines import Precision, open_engine
from edge_ad_runtime.files import make_folder, write_atomically
from tests.studies.compression.ours import write_graph
from tests.studies.compression.rows import Figures
from tests.studies.engines import fingerprint, key
from tests.studies.peers.models import Model

FLOAT = "float"
"""The name of the uncut float model's files."""
_RUNS, _TIMED, _SUFFIX = "runs", "timed", ".figures.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a model: a hash of the run, what was done to it, and the figures; None where the cut leaves the
    nets as they are."""

    run: str
    made_by: str
    figures: Figures | None


@dataclass(frozen=True)
class Subject:
    """A run, the data set that it is measured on, and the folder for its models and records."""

    path: Path
    data: Path
    folder: Path

    @property
    def name(self) -> str:
        """What the run is called."""
        return key(self.path)

    def kept(self, model: str, made_by: str) -> Kept | None:
        """The record of a model that was made in this way from this very run."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            found = msgspec.json.decode((self.folder / f"{model}{_SUFFIX}").read_bytes(), type=Kept)
            if (found.run, found.made_by) == (fingerprint(self.path), made_by):
                return found
        return None

    def keep(self, model: str, made_by: str, figures: Figures | None) -> None:
        """Write a model's record."""
        make_folder(self.folder)
        kept = Kept(run=fingerprint(self.path), made_by=made_by, figures=figures)
        write_atomically(self.folder / f"{model}{_SUFFIX}", msgspec.json.format(msgspec.json.encode(kept)))

    def save(self, model: str, converted: ConvertedModel) -> None:
        """Keep a calibrated model for times and pictures."""
        make_folder(self.folder)
        write_atomically(self.folder / f"{model}.onnx", converted.model)
        write_atomically(self.folder / f"{model}.calibration.json", encode_calibration(converted.calibration))

    def open(self, model: str) -> tuple[ConvertedModel, Calibration]:
        """A model that was saved."""
        encoded = (self.folder / f"{model}.onnx").read_bytes()
        path = self.folder / f"{model}.calibration.json"
        precision: Precision = "fp32" if model == FLOAT else "int8"
        spec = read_config(self.path)[0].preprocess
        converted = ConvertedModel(open_engine("ort", encoded, precision), precision, encoded, spec)
        return converted, decode_calibration(path.read_bytes(), str(path))


def subject(text: str, out: Path) -> Subject:
    """``RUN`` or ``RUN=DATA``; without DATA the data set that the run was trained on.

    Raises:
        RunError: RUN is no run.
    """
    path, _, data = text.partition("=")
    config, _ = read_config(Path(path))
    return Subject(Path(path), Path(data or config.data), out / _RUNS / key(Path(path)))


def read_figures(out: Path) -> list[Figures]:
    """All figures in the study's folder."""
    paths = sorted((out / _RUNS).glob(f"*/*{_SUFFIX}"))
    kept = [msgspec.json.decode(p.read_bytes(), type=Kept).figures for p in paths]
    return [f for f in kept if f is not None]


def measured_models(out: Path, figures: Figures) -> list[Model]:
    """The model of the figures in each engine's form, named ``ROW ENGINE``, its file relative to ``out``; none of a
    plain graph, which is another file for each engine."""
    path, folder = out / _RUNS / figures.run / f"{figures.model}.onnx", out / _TIMED / figures.row
    if not path.exists():
        return []
    make_folder(folder)
    graph = onnx.load(path)
    return [
        msgspec.structs.replace(m, name=f"{figures.row} {m.engine}", file=f"{_TIMED}/{figures.row}/{m.file}")
        for m in write_graph(graph, folder, "edge-ad").models
    ]
