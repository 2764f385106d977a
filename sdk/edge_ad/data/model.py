"""What a data set is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Layout: TypeAlias = Literal["folder", "mvtec-ad", "mvtec-loco", "visa"]


@dataclass(frozen=True)
class TestImage:
    """One labelled image; ``kind`` is its folder (``good``, ``broken_large``, …), or VisA's label.

    ``masks`` are its ground-truth files: none, one, or in MVTec LOCO one for each defect.
    """

    path: Path
    kind: str
    masks: tuple[Path, ...] = ()

    @property
    def defect(self) -> bool:
        return self.kind != "good"

    @property
    def mask(self) -> Path | None:
        """The first mask; :func:`edge_ad.data.defect_mask` reads all of them."""
        return self.masks[0] if self.masks else None


@dataclass(frozen=True)
class Saturation:
    """How much of a defect must be found for it to count as found, in MVTec LOCO's sPRO metric.

    ``threshold`` is an area in pixels, or, where ``relative``, a share of the defect's own area.
    Source: Bergmann et al., "Beyond Dents and Scratches", IJCV 2022, section 4.
    """

    defect: str
    threshold: float
    relative: bool


@dataclass(frozen=True)
class Dataset:
    """The images of a data set: good ones to train on, labelled ones to test on. Either may be missing.

    ``validation`` are good images that the data set itself holds out (MVTec LOCO); where there are none, a share
    of ``good`` is held out. ``saturation`` maps a mask's pixel value to its saturation (MVTec LOCO).
    ``warnings`` says what looked wrong while reading, one sentence each.
    """

    root: Path
    good: tuple[Path, ...]
    test: tuple[TestImage, ...]
    validation: tuple[Path, ...] = ()
    layout: Layout = "folder"
    saturation: Mapping[int, Saturation] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
