"""Make the demo's images: python -m examples.demo.images FOLDER

``parts/``        a data set in the MVTec AD layout: train/good, test/*, ground_truth/*
``belt/``         what the camera sees while parts go by, one part a frame, in order
``new_lamp/``     the same line after its lamp was replaced
``new_lamp_good/``  good parts under the new lamp, to recalibrate with

``belt.json`` and ``new_lamp.json`` say what each frame shows. The same seed gives the same images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt

from edge_ad_runtime.errors import DataError
from edge_ad_runtime.files import folder_written_atomically
from examples.demo.defects import KINDS
from examples.demo.part import LAMP, NEW_LAMP, Lamp, make_part, mask_of, photograph
from examples.demo.photographs import Photographs, read_photographs

# A defect that fell off the part or into a hole is drawn again.
_SMALLEST_DEFECT = 60
"""Pixels of the picture."""


@dataclass(frozen=True)
class Amounts:
    """How many pictures of each sort; ``bad_frames`` of the ``belt_frames`` show a defect."""

    train: int = 80
    test_good: int = 20
    test_each: int = 10
    belt_frames: int = 40
    bad_frames: int = 8
    recalibration: int = 40


@dataclass(frozen=True)
class Shot:
    """One picture to take. ``kind`` is ``good`` or a kind of defect, ``variant`` counts within the kind."""

    path: Path
    stream: int
    index: int
    lamp: Lamp = LAMP
    kind: str = "good"
    variant: int = 0
    mask: Path | None = None


def make_images(folder: Path, seed: int = 0, amounts: Amounts = Amounts(), workers: int = 2) -> None:
    """Make all images in a new folder.

    Raises:
        DataError: the folder exists and is not empty.
        MissingExtra: scikit-image, whose photographs are used, is not installed.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder}: exists already; remove it or choose another name")
    photographs = read_photographs()
    with folder_written_atomically(folder) as temporary:
        shots = [*_data_set(temporary / "parts", amounts), *_lines(temporary, seed, amounts)]
        for directory in {p.parent for s in shots for p in (s.path, s.mask) if p is not None}:
            directory.mkdir(parents=True)
        with ThreadPoolExecutor(workers) as pool:
            # list() so that an error in a worker is raised here.
            list(pool.map(lambda shot: _take(shot, photographs, seed), shots))


def _data_set(root: Path, amounts: Amounts) -> Iterator[Shot]:
    for i in range(amounts.train):
        yield Shot(root / "train" / "good" / f"{i:03d}.png", 0, i)
    for i in range(amounts.test_good):
        yield Shot(root / "test" / "good" / f"{i:03d}.png", 1, i)
    for stream, kind in enumerate(KINDS, start=2):
        for i in range(amounts.test_each):
            mask = root / "ground_truth" / kind / f"{i:03d}_mask.png"
            yield Shot(root / "test" / kind / f"{i:03d}.png", stream, i, kind=kind, variant=i, mask=mask)


def _lines(root: Path, seed: int, amounts: Amounts) -> Iterator[Shot]:
    for stream, (name, lamp) in enumerate((("belt", LAMP), ("new_lamp", NEW_LAMP)), start=10):
        rng = np.random.default_rng([seed, stream])
        bad = set(rng.choice(amounts.belt_frames, amounts.bad_frames, replace=False).tolist())
        shown, defects = [], 0
        for i in range(amounts.belt_frames):
            kind, variant = "good", 0
            if i in bad:
                kind, variant = list(KINDS)[defects % len(KINDS)], defects // len(KINDS)
                defects += 1
            path = root / name / f"frame_{i:03d}.png"
            shown.append({"frame": path.name, "kind": kind})
            yield Shot(path, stream, i, lamp, kind, variant)
        (root / f"{name}.json").write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    for i in range(amounts.recalibration):
        yield Shot(root / "new_lamp_good" / f"frame_{i:03d}.png", 12, i, NEW_LAMP)


def _take(shot: Shot, photographs: Photographs, seed: int) -> None:
    """Draw and save one picture; its randomness depends on nothing but the seed and its place."""
    rng = np.random.default_rng([seed, shot.stream, shot.index])
    while True:
        part = make_part(photographs, rng)
        if shot.kind == "good":
            break
        variants = KINDS[shot.kind]
        variants[shot.variant % len(variants)](part, photographs, rng)
        if np.count_nonzero(mask_of(part)) >= _SMALLEST_DEFECT:
            break
    _save(shot.path, photograph(part, shot.lamp, rng)[:, :, ::-1])
    if shot.mask is not None:
        _save(shot.mask, mask_of(part))


def _save(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise OSError(f"{path}: the picture cannot be encoded")
    path.write_bytes(data.tobytes())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Another seed gives other parts.")
def main(folder: Path, seed: int) -> None:
    """Make the demo's images in a new FOLDER."""
    begin = time.monotonic()
    make_images(folder, seed)
    count = sum(1 for _ in folder.rglob("*.png"))
    click.echo(f"{count} images in {folder} ({time.monotonic() - begin:.0f} s)")


if __name__ == "__main__":
    main()
