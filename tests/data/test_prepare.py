"""``edge-ad prepare`` from annotation files to a data set, by the command and by the function."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge_ad.cli.prepare import command
from edge_ad.data import Dataset, defect_mask, read_dataset
from edge_ad.data.prepare import PrepareOptions, prepare
from edge_ad_runtime.errors import DataError, InputError
from edge_ad_runtime.images import read_image
from tests.data.sets import HEIGHT, WIDTH, box_polygon, rectangle, write_coco, write_image

SCRATCH: dict[str, Any] = {"category_id": 1, "segmentation": [box_polygon(3, 2, 6, 4)]}
DENT: dict[str, Any] = {"category_id": 2, "segmentation": [box_polygon(10, 10, 3, 3)]}


@pytest.fixture
def options(tmp_path: Path) -> PrepareOptions:
    """Three annotated images, two listed without annotations, twenty unlabelled ones."""
    labeled, unlabeled = tmp_path / "images", tmp_path / "normal"
    names = ["a.png", "b.png", "c.jpg", "d.png", "sub/e.png"]
    for i, name in enumerate(names):
        write_image(labeled / name, 1000 + i)
    for i in range(20):
        write_image(unlabeled / ("B" if i % 2 else "A") / f"{i:02d}.png", i)
    rle = {"size": [HEIGHT, WIDTH], "counts": [5, 2, HEIGHT * WIDTH - 7]}
    annotations = [
        {"image_id": 1, **SCRATCH},
        {"image_id": 2, **DENT},
        {"image_id": 2, "category_id": 2, "segmentation": rle, "iscrowd": 1},
        {"image_id": 3, **SCRATCH},
        {"image_id": 3, **DENT},
    ]
    coco = write_coco(tmp_path / "annotations" / "instances.json", names, annotations)
    return PrepareOptions(coco, labeled, (unlabeled,))


def change(options: PrepareOptions, **changes: Any) -> None:
    """Replace top-level entries of the annotation file."""
    content = json.loads(options.annotations.read_text())
    options.annotations.write_text(json.dumps(content | changes))


def masks_of(dataset: Dataset) -> dict[str, Any]:
    return {i.path.stem: defect_mask(i, HEIGHT, WIDTH) for i in dataset.test if i.defect}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_command_makes_a_data_set(options: PrepareOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--annotations", options.annotations, "--labeled", options.labeled]
    arguments += [
        "--unlabeled",
        options.unlabeled[0],
        "-o",
        out,
        "--train-ratio",
        "0.8",
        "--seed",
        "42",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from edge_ad.cli import main; main()", "prepare", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert (result["train_good"], result["test_good"]) == (18, 4)
    assert (result["defects"], result["masks"], result["left_out"]) == ({"dent": 1, "scratch": 2}, 3, 0)
    dataset = read_dataset(out)
    assert (dataset.layout, dataset.warnings, len(dataset.good)) == ("mvtec-ad", (), 18)
    masks = masks_of(dataset)
    assert (masks["a"] == rectangle(3, 2, 6, 4)).all()
    # Two polygons of two categories: both in the mask, in the folder of the larger.
    assert (masks["c"] == rectangle(3, 2, 6, 4) | rectangle(10, 10, 3, 3)).all()
    assert any("'dent', 'scratch'; it is put to the largest, 'scratch'" in n for n in result["notes"])
    assert "note: " in done.stderr
    # Run lengths go down the columns.
    assert (masks["b"] == rectangle(10, 10, 3, 3) | rectangle(0, 5, 1, 2)).all()
    stored = cv2.imread(str(out / "ground_truth" / "dent" / "b_mask.png"), cv2.IMREAD_UNCHANGED)
    assert stored is not None and stored.shape == (HEIGHT, WIDTH) and set(np.unique(stored)) == {0, 255}
    assert (out / "test" / "scratch" / "c.jpg").read_bytes() == (options.labeled / "c.jpg").read_bytes()


def test_the_seed_decides_the_split_and_nothing_else(options: PrepareOptions, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        prepare(tmp_path / name, replace(options, seed=seed))
    assert everything(tmp_path / "one") == everything(tmp_path / "again")
    one, two = ({p.name for p in (tmp_path / n / "train" / "good").iterdir()} for n in ("one", "two"))
    assert one != two and len(one) == len(two) == 18
    assert everything(tmp_path / "one" / "ground_truth") == everything(tmp_path / "two" / "ground_truth")


@pytest.mark.parametrize(("ratio", "train"), [(0.01, 1), (0.5, 11), (0.999, 21), (1.0, 22)])
def test_the_ratio_leaves_good_images_to_test_on(
    options: PrepareOptions, tmp_path: Path, ratio: float, train: int
) -> None:
    result = prepare(tmp_path / "out", replace(options, train_ratio=ratio))
    assert (result.train_good, result.test_good) == (train, 22 - train)
    assert any("no good image to test on" in w for w in result.warnings) == (ratio == 1)
    assert any("at least 10 are needed" in w for w in result.warnings) == (train < 10)


def test_no_two_images_share_a_name(options: PrepareOptions, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for i, name in enumerate(("A/00.png", "B/00.PNG", "B/00.jpg", "a.png")):
        write_image(other / name, 500 + i)
    result = prepare(tmp_path / "out", replace(options, unlabeled=(*options.unlabeled, other)))
    assert result.train_good + result.test_good == 26 and result.left_out == 0
    assert sum("its name is taken" in note for note in result.notes) == 4
    record = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert len(record["images"]) == 29
    assert len({Path(place).stem.casefold() for place in record["images"]}) == 29
    for place, source in record["images"].items():
        assert (tmp_path / "out" / place).read_bytes() == Path(source).read_bytes()


def test_a_picture_goes_in_once_and_never_as_good_and_defective(
    options: PrepareOptions, tmp_path: Path
) -> None:
    good = options.unlabeled[0]
    shutil.copy(good / "A" / "00.png", good / "B" / "copy.png")
    shutil.copy(options.labeled / "a.png", good / "defective.png")
    # The same pixels in another format are the same picture.
    assert cv2.imwrite(
        str(good / "again.bmp"), cv2.cvtColor(read_image(good / "A" / "02.png"), cv2.COLOR_RGB2BGR)
    )
    result = prepare(tmp_path / "out", options)
    assert result.left_out == 3 and result.train_good + result.test_good == 22
    assert any("defective.png" in w and "annotated as 'scratch'" in w for w in result.warnings)
    assert sum("shows the same picture" in note for note in result.notes) == 2
    images = [p for p in (tmp_path / "out").rglob("*.*") if p.parts[-3] in ("train", "test")]
    assert len({read_image(p).tobytes() for p in images}) == len(images) == 25


def test_the_labelled_folder_may_be_the_unlabelled_one(options: PrepareOptions, tmp_path: Path) -> None:
    write_image(options.labeled / "unlisted.png", 77)
    result = prepare(tmp_path / "one", options)
    assert result.left_out == 1
    assert any("1 image in" in w and "'unlisted.png'" in w for w in result.warnings)
    both = prepare(tmp_path / "two", replace(options, unlabeled=(*options.unlabeled, options.labeled)))
    assert (both.left_out, both.warnings) == (0, ())
    assert both.train_good + both.test_good == 23 and both.defects == result.defects


def test_categories_become_safe_and_distinct_folders(options: PrepareOptions, tmp_path: Path) -> None:
    names = ["../Kratzer tief", "Kratzer/tief", "kratzer_TIEF", "***", "Delle", "Delle", "leer"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    images = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(images):
        write_image(options.labeled / name, 2000 + i)
    annotations = [{**SCRATCH, "image_id": i + 1, "category_id": i} for i in range(6)]
    write_coco(options.annotations, images, annotations, categories=categories)
    result = prepare(tmp_path / "out", options)
    assert result.defects == {
        "Delle": 2, "Kratzer_tief": 1, "Kratzer_tief_2": 1, "category_3": 1, "kratzer_TIEF_3": 1,
    }  # fmt: skip
    assert {p.name for p in (tmp_path / "out" / "test").iterdir()} == {"good", *result.defects}
    assert any("1 category without annotations: 'leer'" in w for w in result.warnings)
    assert any("named 'Delle'; they share a folder" in n for n in result.notes)
    assert not (tmp_path / "Kratzer tief").exists()


def test_a_category_that_marks_no_defect_is_ignored_when_said(
    options: PrepareOptions, tmp_path: Path
) -> None:
    change(options, categories=[{"id": 1, "name": "Good"}, {"id": 2, "name": "dent"}])
    with pytest.raises(DataError, match=r"--ignore-category 'Good'\); if it does, rename it"):
        prepare(tmp_path / "out", options)
    for name in ("Good", "1"):
        result = prepare(tmp_path / name, replace(options, ignore=(name,)))
        assert result.defects == {"dent": 2} and result.train_good + result.test_good == 23
        assert any("1 image with only ignored annotations count as good" in n for n in result.notes)
        assert (masks_of(read_dataset(tmp_path / name))["c"] == rectangle(10, 10, 3, 3)).all()
    with pytest.raises(DataError, match=r"no category 'goood'; it has 'Good' \(1\), 'dent' \(2\)"):
        prepare(tmp_path / "out", replace(options, ignore=("goood",)))


def test_boxes_edges_and_annotations_without_region(options: PrepareOptions, tmp_path: Path) -> None:
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"image_id": 2, "category_id": 2, "bbox": [WIDTH - 4, HEIGHT - 4, 20, 20]},
        {"image_id": 3, **SCRATCH},
        {"image_id": 3, "category_id": 2},
        {"image_id": 4, "category_id": 2, "segmentation": [box_polygon(1000, 1000, 5, 5)]},
    ]
    change(options, annotations=[{"id": i, **a} for i, a in enumerate(annotations, 1)])
    result = prepare(tmp_path / "out", options)
    masks = masks_of(read_dataset(tmp_path / "out"))
    assert (masks["a"] == rectangle(1, 2, 3, 4)).all()
    assert (masks["b"] == rectangle(WIDTH - 4, HEIGHT - 4, 4, 4)).all()
    assert masks["c"] is None and masks["d"] is None
    assert (result.masks, result.defects) == (2, {"dent": 2, "scratch": 2})
    notes, warnings = "\n".join(result.notes), "\n".join(result.warnings)
    assert "a.png: annotation 1 has only a box" in notes
    assert "b.png: annotation 2 reaches out of the image" in warnings
    assert "c.jpg: annotation 4 has no region inside the image" in warnings
    assert "d.png: annotation 5 has no region inside the image" in warnings


def test_listed_images_that_are_not_there(options: PrepareOptions, tmp_path: Path) -> None:
    (options.labeled / "a.png").unlink()
    (options.labeled / "d.png").unlink()
    with pytest.raises(DataError, match=r"2 listed images not found in .*'a\.png', 'd\.png'.*--skip-missing"):
        prepare(tmp_path / "out", options)
    result = prepare(tmp_path / "out", replace(options, skip_missing=True))
    assert result.left_out == 2 and result.defects == {"dent": 1, "scratch": 1}
    assert any("2 listed images not found" in w for w in result.warnings)


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/secret.png", "sub\\..\\..\\secret.png", "x/../../secret.png", ""]
)
def test_file_names_do_not_lead_out(options: PrepareOptions, tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "secret.png", 9)
    change(options, images=[{"id": i, "file_name": name if i == 1 else f"{i}.png"} for i in range(1, 6)])
    with pytest.raises(DataError, match="leads out of the folder"):
        prepare(tmp_path / "out", replace(options, skip_missing=True))
    assert not (tmp_path / "out").exists()


def test_names_with_folders_are_found(options: PrepareOptions, tmp_path: Path) -> None:
    names = ["images/a.png", "b.png", "c.jpg", "d.png", "sub\\e.png"]
    change(options, images=[{"id": i, "file_name": n} for i, n in enumerate(names, 1)])
    result = prepare(tmp_path / "out", options)
    assert result.defects == {"dent": 1, "scratch": 2} and result.warnings == ()


def test_sizes_that_contradict_the_file(options: PrepareOptions, tmp_path: Path) -> None:
    write_image(options.labeled / "a.png", 1, WIDTH, HEIGHT)
    write_image(options.labeled / "d.png", 2, HEIGHT + 1, WIDTH)
    with pytest.raises(DataError, match=r"a\.png: is 32x24 pixels in the annotations, but 24x32 in the file"):
        prepare(tmp_path / "out", options)
    write_image(options.labeled / "a.png", 1)
    result = prepare(tmp_path / "out", options)
    assert [w for w in result.warnings if "d.png is 32x24" in w and "counts as good" in w]


COCO_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"images": None}, "not COCO instance annotations"),
    ({"annotations": [{"image_id": 99, **SCRATCH}]}, "1 annotations refer to the image 99, which is not listed"),
    ({"annotations": [{"image_id": 1, "category_id": 9}]}, "refer to the category 9, which is not listed"),
    ({"annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3, 4, 5]]}]}, "polygon of 5 numbers"),
    ({"annotations": [{"image_id": 1, "category_id": 1, "segmentation": [1, 2, 3, 4]}]}, "not COCO instance"),
    (
        {"annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"size": [9, 9], "counts": [81]}}]},
        "run lengths of 9x9 pixels for an image of 32x24",
    ),
    ({"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]}, "image id 1 is given 2 times"),
    ({"images": [{"id": i, "file_name": "a.png"} for i in range(1, 6)]}, "are the same file, listed twice"),
    ({"images": [{"id": i, "file_name": f"{i}.txt"} for i in range(1, 6)]}, "not named like an image"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), COCO_ERRORS)
def test_wrong_annotations_are_refused_and_nothing_is_written(
    options: PrepareOptions, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    change(options, **changes)
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "out", options)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"images": [', "\xff"])
def test_files_that_are_not_coco(options: PrepareOptions, tmp_path: Path, text: str) -> None:
    options.annotations.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"instances\.json: these are not COCO instance annotations"):
        prepare(tmp_path / "out", options)


def test_every_broken_image_is_named_at_once(options: PrepareOptions, tmp_path: Path) -> None:
    (options.labeled / "b.png").write_bytes(b"no image")
    broken = options.unlabeled[0] / "A" / "00.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"2 problems\n.*b\.png.*\n.*00\.png") as caught:
        prepare(tmp_path / "out", options)
    assert "cut off" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_do(options: PrepareOptions, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for changes, message in (
        ({"labeled": tmp_path / "nowhere"}, "no such folder"),
        ({"unlabeled": (tmp_path / "nowhere",)}, "no such folder"),
        ({"unlabeled": (tmp_path / "empty",)}, "holds no images"),
        ({"annotations": tmp_path / "nowhere.json"}, "cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(tmp_path / "out", replace(options, **changes))
    change(options, images=[], annotations=[])
    with pytest.raises(DataError, match="lists no images, and no unlabelled ones"):
        prepare(tmp_path / "out", replace(options, unlabeled=()))
    with pytest.raises(InputError, match="above 0 and at most 1"):
        replace(options, train_ratio=1.2)


def test_what_exists_is_left_alone(options: PrepareOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match="exists already"):
        prepare(out, options)
    assert list(out.iterdir()) == []


def test_a_failure_while_copying_leaves_nothing(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.copyfile
    copied: list[Path] = []

    def fills_the_disk(source: Path, target: Path) -> Path:
        if len(copied) == 5:
            raise OSError(28, "No space left on device")
        copied.append(target)
        return real(source, target)

    monkeypatch.setattr(shutil, "copyfile", fills_the_disk)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        prepare(tmp_path / "out", options)
    assert len(copied) == 5 and set(tmp_path.iterdir()) == before


def test_the_summary_counts_and_long_lists_are_cut(options: PrepareOptions, tmp_path: Path) -> None:
    images = [f"n{i}.png" for i in range(25)]
    for i, name in enumerate(images):
        write_image(options.labeled / name, 3000 + i)
    boxes = [{"image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(1, 26)]
    write_coco(options.annotations, images, boxes)
    out = tmp_path / "out"
    arguments = ["--annotations", options.annotations, "--labeled", options.labeled, "-o", out]
    done = CliRunner().invoke(command, [str(a) for a in (*arguments, "--unlabeled", options.unlabeled[0])])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[:3] == [["train/good", "16"], ["test/good", "4"], ["test/scratch", "25"]]
    assert "25 masks, 5 images left out" in done.stdout
    assert done.stderr.count("\nnote: ") + done.stderr.startswith("note: ") == 21
    assert f"note: and 5 more, all in {out / 'prepared.json'}" in done.stderr
    assert len(json.loads((out / "prepared.json").read_text())["notes"]) == 25
    assert "1 category without annotations: 'dent'" in done.stderr
