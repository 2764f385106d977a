"""A region of interest in tiles, from training to verdicts, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge_ad.cli.convert import command as convert_command
from edge_ad.cli.evaluate import command as evaluate_command
from edge_ad.cli.info import command as info_command
from edge_ad.cli.run import command as run_command
from edge_ad.cli.train import command as train_command
from edge_ad.conversion.inputs import network_inputs, tile_picks
from edge_ad.data import read_dataset
from edge_ad.data.inputs import read_input
from edge_ad.run_folder import open_run, open_scorer
from edge_ad.training.images import network_store
from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.engines import open_engine
from edge_ad_runtime.errors import DataError
from edge_ad_runtime.images import read_image
from edge_ad_runtime.inspector import Inspector, open_inspector
from edge_ad_runtime.preprocess import PreprocessSpec, Roi, preprocess
from edge_ad_runtime.tiling import STRIDE, TileSpec
from tests.conversion.conftest import convert_words

SPEC = PreprocessSpec(height=256, width=384, roi=Roi(2, 6, 60, 40), tiles=TileSpec(256, 256))
# 56 cells each, the second tile's first one being the first tile's 33rd: 24 in common.
SHIFT, COMMON = 128 // STRIDE, 56 - 128 // STRIDE


@pytest.fixture(scope="module")
def tiled_run(parts: Path, random_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on tiles of a region."""
    out = tmp_path_factory.mktemp("runs") / "tiled"
    done = CliRunner().invoke(
        train_command,
        [
            str(parts), "-o", str(out), "--teacher", str(random_teacher), "--steps", "3", "--image-size", "384x256",
            "--tile", "256", "--roi", "2,6,60x40", "--penalty-images", "none", "--precision", "fp32",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "384x256 px in 2 tiles of 256x256 px, cut out 60x40 at 2,6" in done.stderr
    images = len(open_run(out).split.train)
    assert f"3 steps show the nets 3 of the {2 * images} tiles of the {images} images" in done.stderr
    return out


@pytest.fixture(scope="module", params=[pytest.param("fp32", marks=pytest.mark.study), "int8"])
def tiled_bundle(
    request: pytest.FixtureRequest,
    quick: None,
    tiled_run: Path,
    few: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Its conversion."""
    out = tmp_path_factory.mktemp("tiled") / f"{request.param}.edgead"
    words = convert_words(tiled_run, out, few, "--precision", request.param, "--force")
    done = CliRunner().invoke(convert_command, words)
    assert done.exit_code == 0, done.output
    return out


def test_a_bundle_of_tiles_computes_what_the_run_does(
    tiled_bundle: Path, tiled_run: Path, parts: Path
) -> None:
    bundle = open_bundle(tiled_bundle)
    manifest = bundle.manifest
    assert manifest.preprocess == open_run(tiled_run).config.preprocess == SPEC
    assert (manifest.map_height, manifest.map_width) == (56, 88)
    assert bundle.report["gmac"] == manifest.image_gmac == 2 * manifest.gmac > 0
    assert [s.image.shape for s in bundle.golden] == [(1, 256, 384, 3)] * 3
    inspector = Inspector(bundle)
    assert inspector.self_test() <= manifest.golden_tolerance
    image = read_image(parts / "test" / "square" / "000.png")
    expected, maps = open_scorer(tiled_run).raw_maps(image), inspector.raw_maps(image)
    assert maps.st.shape == maps.ae.shape == (56, 88)
    if manifest.precision == "fp32":
        assert maps.st == pytest.approx(expected.st, rel=1e-3, abs=1e-4 * float(expected.st.max()))
        assert maps.ae == pytest.approx(expected.ae, rel=1e-3, abs=1e-4 * float(expected.ae.max()))
    else:
        assert np.corrcoef(maps.st.ravel(), expected.st.ravel())[0, 1] > 0.9
        # The float graph in tiles against the networks in tiles.
        assert bundle.report["fusion_deviation"] < 1e-4


def test_overlapping_tiles_agree_on_the_teacher_student_map(tiled_bundle: Path, parts: Path) -> None:
    """Bit for bit in INT8, since the ranges are fixed; to rounding in float."""
    bundle = open_bundle(tiled_bundle)
    engine = open_engine("ort", bundle.model, bundle.manifest.precision)
    batch = preprocess(read_image(parts / "test" / "square" / "000.png"), SPEC)
    grid = SPEC.grid
    assert grid is not None and grid.offsets == ((0, 0), (0, 128))
    left, right = (engine.run(np.ascontiguousarray(grid.window(batch, tile))) for tile in (0, 1))
    a, b = left.st[:, SHIFT:], right.st[:, :COMMON]
    assert a.shape == b.shape == (56, COMMON) and a.std() > 0
    if bundle.manifest.precision == "int8":
        assert np.array_equal(a, b)
    else:
        assert a == pytest.approx(b, rel=1e-4)
    joined = Inspector(bundle).engine.run(batch)
    assert np.array_equal(joined.st[:, : SHIFT + COMMON // 2], left.st[:, : SHIFT + COMMON // 2])
    # The autoencoder's map is another one in each tile, and is the tile's own where there is but one.
    assert not np.array_equal(left.ae[:, SHIFT:], right.ae[:, :COMMON])
    assert np.array_equal(joined.ae[:, :SHIFT], left.ae[:, :SHIFT])
    assert np.array_equal(joined.ae[:, -SHIFT:], right.ae[:, -SHIFT:])


@pytest.mark.parametrize("tiled_bundle", ["int8"], indirect=True)
def test_skipped_tiles_change_no_result(tiled_bundle: Path, parts: Path) -> None:
    bundle = open_bundle(tiled_bundle)
    plain, sparing = Inspector(bundle), open_inspector(tiled_bundle, skip_unchanged=True)
    image = read_image(parts / "test" / "good" / "000.png").copy()
    skipped = []
    # The first image; nothing; outside the region, in the left tile, in the right one.
    for y, x in ((None, None), (None, None), (0, 0), (10, 5), (30, 60)):
        if y is not None:
            image[y, x] ^= 128
        a, b = plain.inspect(image), sparing.inspect(image)
        assert a.score == b.score and np.array_equal(a.anomaly_map, b.anomaly_map)
        assert a.skipped_tiles == 0
        skipped.append(b.skipped_tiles)
    assert skipped == [0, 2, 2, 1, 1]
    # What warms up or checks the engine computes all of it.
    sparing.self_test()
    sparing.warm_up(1)
    assert sparing.inspect(image).score == a.score


@pytest.mark.parametrize("tiled_bundle", ["int8"], indirect=True)
def test_the_commands_take_tiles(tiled_bundle: Path, parts: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(info_command, [str(tiled_bundle)])
    assert "384x256 px in 2 tiles of 256x256 px, cut out 60x40 at 2,6" in done.output
    assert " GMAC an image (" in done.output and " a tile)" in done.output
    done = CliRunner().invoke(evaluate_command, [str(tiled_bundle), str(parts), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["image_auroc"] == 1
    events = tmp_path / "events.jsonl"
    square = str(parts / "test" / "square")
    words = [str(tiled_bundle), "--camera", square, "--events", f"jsonl:{events}", "--state", str(tmp_path)]
    done = CliRunner().invoke(run_command, words)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in events.read_text().splitlines()]
    assert [r["verdict"] for r in records] == ["reject"] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--roi", "10,10,640x480"],
            ".png: the region of interest 10,10,640,480 does not fit in the 64x64",
        ),
        (["--roi", "10,10,640"], "'10,10,640' is not X,Y,WIDTHxHEIGHT, like 320,40,640x480"),
        (["--roi", "10,10,0x10"], "width and height at least 1"),
        (["--tile", "256", "--image-size", "510x256"], "use 508 or 512 px"),
        (["--tile", "256", "--image-size", "512", "--padding"], "tiles need nets without padding"),
        (
            ["--tile", "256", "--image-size", "512", "--tile-overlap", "16"],
            "an overlap of 32 to 252 px, not 16",
        ),
        (
            ["--tile", "128", "--image-size", "512"],
            "image size 128x128: the autoencoder needs at least 256 px",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    words: list[str], said: str, parts: Path, random_teacher: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(
        train_command, [str(parts), "-o", str(out), "--teacher", str(random_teacher), "--steps", "1", *words]
    )
    assert done.exit_code != 0 and not out.exists()
    assert said in " ".join(f"{done.output} {done.exception}".split())


def test_an_evaluation_names_the_image_that_lacks_the_region(tiled_run: Path, tmp_path: Path) -> None:
    for kind in ("good", "hole"):
        (tmp_path / "test" / kind).mkdir(parents=True)
        image = np.full((40, 40, 3), 128, np.uint8)
        assert cv2.imwrite(str(tmp_path / "test" / kind / "small.png"), image)
    done = CliRunner().invoke(evaluate_command, [str(tiled_run), str(tmp_path)])
    assert done.exit_code != 0 and "small.png: the region of interest 2,6,60,40 does not fit" in str(
        done.exception
    )


def test_training_and_ranges_see_the_tiles_of_the_grid_alone(parts: Path) -> None:
    paths = read_dataset(parts).good[:3]
    grid = SPEC.grid
    assert grid is not None
    store = network_store(paths, SPEC)
    assert len(store) == 6
    wholes = [read_input(p, SPEC) for p in paths]
    for i in range(6):
        assert np.array_equal(store[i], grid.window(wholes[i // 2], i % 2))
    assert store.batch([5, 0]).shape == (2, 256, 256, 3)
    inputs = network_inputs(paths, SPEC)
    assert len(inputs.batches) == 3
    for batch, name in zip(inputs.batches, inputs.names, strict=True):
        tile = int("at 128,0" in name)
        whole = next(w for w, p in zip(wholes, paths, strict=True) if name.startswith(str(p)))
        assert np.array_equal(batch, grid.window(whole, tile))
    with pytest.raises(DataError, match="show the same picture"):
        network_inputs([paths[0], paths[0]], SPEC)


@pytest.mark.parametrize(("images", "tiles"), [(3, 2), (2, 20), (64, 20), (7, 7), (1, 5), (12, 1)])
def test_picks_are_spread_over_images_and_tiles(images: int, tiles: int) -> None:
    picks = tile_picks(images, tiles)
    assert len(picks) == len(set(picks)) == max(images, tiles)
    for axis, count in ((0, images), (1, tiles)):
        found = np.bincount([p[axis] for p in picks], minlength=count)
        assert len(found) == count and found.min() >= 1 and found.max() - found.min() <= 1
