"""What the parts are, and what the model says of their images."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.images import is_image_path

# The masks of data sets in the MVTec AD layout are no images of parts.
_MASKS = "ground_truth"


@dataclass(frozen=True)
class Looks:
    """A part's image: whether the part is ``bad``, whether the model rejects the image, and how long that takes (None:
    as long as the scene says)."""

    bad: bool
    rejected: bool
    name: str = ""
    latency_ns: int | None = None


GOOD, BAD = Looks(False, False, "good"), Looks(True, True, "bad")


class Truth(Protocol):
    """Draws parts."""

    def draw(self, rng: random.Random, bad: bool) -> Looks:
        """The image of a good or a bad part."""
        ...


class LabelTruth:
    """Parts without images: the model is always right."""

    def draw(self, rng: random.Random, bad: bool) -> Looks:
        return BAD if bad else GOOD


class ImageTruth:
    """Parts with images from a folder; each image is judged once.

    Args:
        folder: holds ``good`` and other folders of images; what is not in ``good`` is bad.
        judge: says whether the model rejects an image, and how long that took; None: it is always right.

    Raises:
        InputError: there is no image of a good or none of a bad part.
    """

    def __init__(self, folder: Path, judge: Callable[[Path], tuple[bool, int]] | None = None) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: is no folder; give one that holds 'good' and folders of defects")
        self._folder = folder
        self._judge = judge
        self._good: list[Path] = []
        self._bad: list[Path] = []
        for path in sorted(filter(is_image_path, folder.rglob("*"))):
            within = path.relative_to(folder).parts[:-1]
            if "good" in within:
                self._good.append(path)
            elif within and _MASKS not in within:
                self._bad.append(path)
        self._known: dict[Path, Looks] = {}
        for what, found in (("good", self._good), ("defective", self._bad)):
            if not found:
                raise InputError(
                    f"{folder}: holds no image of a {what} part; it must hold a folder 'good' and one for each defect"
                )

    def draw(self, rng: random.Random, bad: bool) -> Looks:
        path = rng.choice(self._bad if bad else self._good)
        looks = self._known.get(path)
        if looks is None:
            rejected, latency = (bad, None) if self._judge is None else self._judge(path)
            looks = self._known[path] = Looks(bad, rejected, str(path.relative_to(self._folder)), latency)
        return looks
