"""What can be evaluated: anything that turns a camera image into raw maps and has a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_ad_runtime.bundle import MANIFEST, open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.engines import RawMaps
from edge_ad_runtime.errors import InputError
from edge_ad_runtime.inspector import Inspector
from edge_ad_runtime.preprocess import PreprocessSpec
from edge_ad_runtime.types import Image

# As edge_ad.run_folder names it; that module imports torch, which a bundle does not need.
_RUN_CONFIG = "config.json"


class Scorer(Protocol):
    """Raw maps of camera images, and what turns them into verdicts."""

    @property
    def calibration(self) -> Calibration:
        """Quantiles, mix and threshold."""
        ...

    def raw_maps(self, image: Image) -> RawMaps:
        """The raw maps, ``float32 hxw``, of a camera image, ``uint8 HxWx3`` RGB."""
        ...


@dataclass(frozen=True)
class Subject:
    """A scorer with its preprocessing, which says where its maps lie on the image; ``kind`` is for people."""

    path: Path
    kind: str
    scorer: Scorer
    preprocess: PreprocessSpec


def open_subject(path: Path, threads: int | None = None) -> Subject:
    """Open a run folder or a bundle (a file, or an unpacked folder) for evaluation.

    Args:
        path: the run or the bundle.
        threads: CPU threads of a bundle's engine; None lets it use all cores. A run uses torch's setting.

    Raises:
        InputError: there is nothing at the path, or it is neither.
        RunError, BundleError, MissingExtra: it cannot be opened.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such run or bundle")
    if path.is_dir() and not (path / MANIFEST).is_file():
        if not (path / _RUN_CONFIG).is_file():
            raise InputError(
                f"{path}: is neither a run (no {_RUN_CONFIG}) nor an unpacked bundle (no {MANIFEST})"
            )
        from edge_ad.run_folder import open_scorer, read_config

        return Subject(path, "run", open_scorer(path), read_config(path)[0].preprocess)
    bundle = open_bundle(path)
    inspector = Inspector(bundle, threads=threads)
    inspector.self_test()
    inspector.warm_up()
    manifest = bundle.manifest
    return Subject(
        path, f"{manifest.precision} bundle, {inspector.engine.name}", inspector, manifest.preprocess
    )
