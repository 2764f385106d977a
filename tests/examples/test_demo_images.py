"""The demo's images: laid out as the tools expect, repeatable, with defects that are there and marked."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from examples.demo.defects import KINDS, Defect
from examples.demo.images import Amounts, make_images
from examples.demo.part import LAMP, NEW_LAMP, SIZE, make_part, mask_of, photograph
from examples.demo.photographs import Photographs, read_photographs

from edge_ad.data import read_dataset
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.images import list_images, read_image

FEW = Amounts(train=2, test_good=1, test_each=1, belt_frames=4, bad_frames=2, recalibration=1)
DEFECTS = [defect for kind in KINDS.values() for defect in kind]


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    return read_photographs()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "images"
    make_images(folder, seed=3, amounts=FEW)
    return folder


def test_layout(images: Path) -> None:
    dataset = read_dataset(images / "parts")
    assert len(dataset.good) == 2
    assert sorted(i.kind for i in dataset.test) == sorted(["good", *KINDS])
    assert all((i.mask is not None) == i.defect for i in dataset.test)
    assert len(list_images(images / "new_lamp_good")) == 1
    for name in ("belt", "new_lamp"):
        shown = json.loads((images / f"{name}.json").read_text())
        assert [s["frame"] for s in shown] == [p.name for p in list_images(images / name)]
        assert sum(s["kind"] != "good" for s in shown) == 2


def test_same_seed_same_bytes(images: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    make_images(again, seed=3, amounts=FEW, workers=1)
    files = sorted(p.relative_to(images) for p in images.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((images / f).read_bytes() == (again / f).read_bytes() for f in files)
    # And no two pictures are the same one.
    pictures = [images / f for f in files if f.suffix == ".png"]
    assert len({p.read_bytes() for p in pictures}) == len(pictures)


def test_an_existing_folder_is_not_touched(images: Path) -> None:
    before = sorted(images.rglob("*"))
    with pytest.raises(DataError, match="exists already"):
        make_images(images, amounts=FEW)
    assert sorted(images.rglob("*")) == before
    assert list(images.parent.glob(".images*")) == []


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.__name__)
def test_a_defect_changes_what_its_mask_marks(defect: Defect, photographs: Photographs) -> None:
    good = make_part(photographs, np.random.default_rng(5))
    bad = copy.deepcopy(good)
    defect(bad, photographs, np.random.default_rng(6))
    mask = mask_of(bad) > 0
    assert 60 < np.count_nonzero(mask) < 0.06 * SIZE * SIZE
    assert not mask_of(good).any()
    pictures = [photograph(p, LAMP, np.random.default_rng(7)).astype(float) for p in (good, bad)]
    change = np.abs(pictures[0] - pictures[1]).mean(axis=2)
    assert change[mask].mean() > 8
    assert change[~mask].mean() < 0.5


def test_good_parts_vary_and_the_new_lamp_shows(photographs: Photographs) -> None:
    parts = [make_part(photographs, np.random.default_rng(seed)) for seed in (1, 2)]
    old = [photograph(p, LAMP, np.random.default_rng(3)).astype(float) for p in parts]
    new = photograph(parts[0], NEW_LAMP, np.random.default_rng(3)).astype(float)
    assert np.abs(old[0] - old[1]).mean() > 2
    assert new.mean() < old[0].mean() - 3


def test_pictures_are_rgb_of_the_stated_size(images: Path) -> None:
    assert read_image(images / "belt" / "frame_000.png").shape == (SIZE, SIZE, 3)
