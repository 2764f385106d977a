"""Whole models become runs that give the original's maps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from edge_ad.cli import main
from edge_ad.conversion import choose_images
from edge_ad.importing.anomalib import read_checkpoint
from edge_ad.importing.archive import open_torch_file
from edge_ad.importing.job import ImportOptions, import_model
from edge_ad.importing.nelson import read_folder
from edge_ad.nets.model import EfficientAdNets, normalize, to_tensor
from edge_ad.run_folder import TorchScorer, open_run
from edge_ad_runtime.images import list_images, read_image
from edge_ad_runtime.preprocess import preprocess
from tests.conftest import good_part
from tests.importing import originals

TOLERANCE = 1e-4


def deviation(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def write_good(folder: Path, first: int, count: int = 5) -> Path:
    folder.mkdir()
    for i in range(count):
        assert cv2.imwrite(str(folder / f"{i}.png"), good_part(first + i))
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_good(tmp_path_factory.mktemp("images") / "good", 0)


@pytest.fixture(scope="module")
def run_of_anomalib(good: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("anomalib")
    state = originals.anomalib_state()
    path = originals.write_anomalib(folder / "model.ckpt", state, padding=False)
    result = import_model(path, folder / "run", ImportOptions(images=good))
    assert result.size == "s" and result.channels == originals.CHANNELS
    assert any("256x256 is assumed" in note for note in result.notes)
    return folder / "run", state


def test_an_anomalib_checkpoint_gives_the_original_maps(
    run_of_anomalib: tuple[Path, dict[str, Tensor]], good: Path
) -> None:
    path, state = run_of_anomalib
    run = open_run(path)
    image = read_image(list_images(good)[0])
    scorer = TorchScorer(run.nets, run.config.preprocess)
    raw = scorer.raw_maps(image)
    batch = originals.normalized(to_tensor(preprocess(image, run.config.preprocess)))
    st, ae = originals.maps(
        originals.anomalib_pdn(state, "teacher", batch, False),
        originals.anomalib_pdn(state, "student", batch, False),
        originals.anomalib_autoencoder(state, batch, False),
        state["model.mean_std.mean"],
        state["model.mean_std.std"],
    )
    assert deviation(torch.from_numpy(raw.st)[None], st) < TOLERANCE
    assert deviation(torch.from_numpy(raw.ae)[None], ae) < TOLERANCE


def test_an_imported_run_says_so_and_can_be_converted(
    run_of_anomalib: tuple[Path, dict[str, Tensor]], good: Path
) -> None:
    run = open_run(run_of_anomalib[0])
    assert run.config.origin == "imported: anomalib checkpoint model.ckpt"
    assert run.config.steps == 0 and run.config.teacher == "imported"
    assert run.split.train == {} and len(run.split.validation) == 5
    assert run.calibration.images == 5
    # The checkpoint's own quantiles are not taken over.
    assert run.calibration.quantiles.qa_st != pytest.approx(0.4)
    sets = choose_images(run, good, None, 0)
    assert sets.fit == tuple(list_images(good))


def test_nelsons_nets_give_the_original_maps(good: Path, tmp_path: Path) -> None:
    folder = originals.write_nelson(tmp_path / "nets", dropout=True)
    trained = write_good(tmp_path / "trained", 100, 3)
    result = import_model(folder, tmp_path / "run", ImportOptions(images=good, trained_on=trained))
    run = open_run(result.path)
    assert len(run.split.train) == 3
    nets = originals.load_nelson(folder)
    with torch.inference_mode():
        batches = [
            normalize(to_tensor(preprocess(read_image(p), run.config.preprocess)))
            for p in list_images(trained)
        ]
        outputs = torch.cat([nets["teacher"](b) for b in batches])
        mean, std = outputs.mean((0, 2, 3), keepdim=True), outputs.std((0, 2, 3), keepdim=True, correction=0)
        image = originals.normalized(torch.rand(1, 3, 256, 256))
        theirs = originals.maps(
            nets["teacher"](image), nets["student"](image), nets["autoencoder"](image), mean, std
        )
        ours = run.nets(image)
    assert deviation(run.nets.teacher_std, std) < TOLERANCE
    assert deviation(ours[0], theirs[0]) < TOLERANCE and deviation(ours[1], theirs[1]) < TOLERANCE


@pytest.mark.parametrize("size", ["s", "m"])
@pytest.mark.parametrize("padding", [False, True])
def test_both_sizes_padded_or_not(size: str, padding: bool, tmp_path: Path) -> None:
    state = originals.anomalib_state(size)
    pre_processor = {"anomalib_pre_processor_config": originals.resize_to(256, 320)}
    path = originals.write_anomalib(tmp_path / "model.ckpt", state, padding, **pre_processor)
    with open_torch_file(path, "model.ckpt") as file:
        foreign = read_checkpoint(file)
    assert foreign.padded is padding and foreign.image_size == (256, 320)
    nets = EfficientAdNets(foreign.architecture, foreign.image_size, padding).eval()
    for name, weights in foreign.nets.items():
        getattr(nets, name).load_state_dict(weights)
    small = originals.normalized(torch.rand(1, 3, 64, 72))
    large = originals.normalized(torch.rand(1, 3, 256, 320))
    with torch.inference_mode():
        for name, net in (("teacher", nets.teacher), ("student", nets.student)):
            assert deviation(net(small), originals.anomalib_pdn(state, name, small, padding)) < TOLERANCE
        theirs = originals.anomalib_autoencoder(state, large, padding)
        assert deviation(nets.autoencoder(large), theirs) < TOLERANCE


def test_nelsons_layers_say_image_size_and_padding(tmp_path: Path) -> None:
    foreign = read_folder(originals.write_nelson(tmp_path / "nets", "m"))
    assert foreign.architecture.name == "m"
    assert foreign.image_size == (256, 256) and foreign.padded is False
    assert foreign.teacher_mean is None


@pytest.mark.parametrize("net", ["teacher", "student", "autoencoder"])
def test_nets_that_differ_in_what_weights_do_not_show_are_refused(net: str, tmp_path: Path) -> None:
    folder = originals.write_nelson(tmp_path / "nets")
    torch.manual_seed(0)
    changed = {
        "teacher": originals.pdn("s", originals.CHANNELS, True),
        "student": originals.pdn("s", 2 * originals.CHANNELS, False),
        "autoencoder": originals.autoencoder(originals.CHANNELS, last=64),
    }[net]
    if net == "student":
        changed[2] = torch.nn.MaxPool2d(2, 2)
    torch.save(changed, folder / f"{net}_final.pth")
    with pytest.raises(ValueError, match=r"pad alike|does not have|not those of"):
        read_folder(folder)


def test_a_run_needs_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = originals.write_anomalib(tmp_path / "model.ckpt", originals.anomalib_state())
    with pytest.raises(SystemExit) as end:
        main(["import", str(path), "-o", str(tmp_path / "run")])
    assert end.value.code == 1
    assert "give --images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_that_contradict_the_file_are_refused(good: Path, tmp_path: Path) -> None:
    pre_processor = {"anomalib_pre_processor_config": originals.resize_to(256, 256)}
    path = originals.write_anomalib(
        tmp_path / "model.ckpt", originals.anomalib_state(), False, **pre_processor
    )
    for options in (
        ImportOptions(images=good, image_size=(320, 320)),
        ImportOptions(images=good, padding=True),
    ):
        with pytest.raises(ValueError, match=r"made for images|do not pad"):
            import_model(path, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_images_it_was_trained_on_are_kept_out_of_the_fit(good: Path, tmp_path: Path) -> None:
    path = originals.write_anomalib(tmp_path / "model.ckpt", originals.anomalib_state())
    with pytest.raises(ValueError, match="holds 0 good images"):
        import_model(path, tmp_path / "run", ImportOptions(images=good, trained_on=good))
    assert np.array_equal(sorted(p.name for p in tmp_path.iterdir()), ["model.ckpt"])
