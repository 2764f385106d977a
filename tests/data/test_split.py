"""Which good images are held out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_ad.data import read_dataset, split_good
from edge_ad_runtime.errors import DataError
from tests.data.sets import write_image, write_loco, write_mvtec


def test_a_set_with_validation_images_keeps_them(tmp_path: Path) -> None:
    root = write_loco(tmp_path)
    dataset = read_dataset(root)
    for seed, fraction in ((0, 0.1), (1, 0.9)):
        split = split_good(dataset, fraction, seed)
        assert (split.train, split.validation) == (dataset.good, dataset.validation)


def test_a_training_image_that_validates_too_is_left_out(tmp_path: Path) -> None:
    root = write_loco(tmp_path)
    shutil.copy(root / "validation" / "good" / "000.png", root / "train" / "good" / "900.png")
    shutil.copy(root / "test" / "good" / "000.png", root / "validation" / "good" / "900.png")
    split = split_good(read_dataset(root), 0.1, 0)
    assert split.duplicates == (root / "train" / "good" / "900.png",)
    assert split.leaking == (root / "validation" / "good" / "900.png",)
    assert len(split.train) == 12 and len(split.validation) == 6


def test_too_few_validation_images(tmp_path: Path) -> None:
    root = write_loco(tmp_path)
    for i in range(2):
        (root / "validation" / "good" / f"{i:03d}.png").unlink()
    with pytest.raises(DataError, match="validation/good has 4 different images"):
        split_good(read_dataset(root), 0.1, 0)


def test_groups_and_a_given_validation_set_contradict(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to group"):
        split_good(read_dataset(write_loco(tmp_path)), 0.1, 0, group="(.)")


def test_training_needs_good_images(tmp_path: Path) -> None:
    write_image(tmp_path / "test" / "good" / "a.png", 0)
    with pytest.raises(DataError, match=r"no images of good parts to train on; put them into .*train/good"):
        split_good(read_dataset(tmp_path), 0.1, 0)


def test_a_random_share_is_repeatable(tmp_path: Path) -> None:
    dataset = read_dataset(write_mvtec(tmp_path, good=30))
    first = split_good(dataset, 0.3, 1)
    assert first == split_good(dataset, 0.3, 1)
    assert first.validation != split_good(dataset, 0.3, 2).validation
    assert len(first.validation) == 9 and sorted((*first.train, *first.validation)) == list(dataset.good)
