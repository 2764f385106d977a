"""The bundle: round trip, golden self-test, and every way in which it can be damaged."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest

from edge_ad_runtime.bundle import open_bundle
from edge_ad_runtime.errors import BundleError, CalibrationError
from edge_ad_runtime.inspector import Inspector, open_inspector
from edge_ad_runtime.verdict import Verdict
from tests.conftest import bad_part, good_part


def test_reads_back_and_passes_its_own_self_test(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.name == "tiny"
    assert bundle.calibration.bundle == bundle.id
    assert len(bundle.golden) == 1
    assert Inspector(bundle, threads=1).self_test() <= bundle.manifest.golden_tolerance


def test_unpacked_folder_is_the_same_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny.edgead"
    with zipfile.ZipFile(tiny_bundle) as archive:
        archive.extractall(folder)
    assert open_bundle(folder).id == open_bundle(tiny_bundle).id


@pytest.mark.parametrize("at", [0, 100, 1000, -200, -10])
def test_any_changed_byte_or_cut_is_refused(tiny_bundle: Path, tmp_path: Path, at: int) -> None:
    data = bytearray(tiny_bundle.read_bytes())
    cut = tmp_path / "cut.edgead"
    cut.write_bytes(data[:at])
    with pytest.raises(BundleError):
        open_bundle(cut)


def test_changed_file_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny.edgead"
    with zipfile.ZipFile(tiny_bundle) as archive:
        archive.extractall(folder)
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"model\.onnx has changed"):
        open_bundle(folder)
    model.unlink()
    with pytest.raises(BundleError, match=r"lacks model\.onnx"):
        open_bundle(folder)
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="there is no such bundle"):
        open_bundle(folder)


def test_calibration_of_another_bundle_is_refused(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    foreign = msgspec.structs.replace(bundle.calibration, bundle="0" * 64)
    with pytest.raises(CalibrationError, match="recalibrate"):
        Inspector(bundle, foreign, threads=1)


def test_good_passes_and_bad_is_rejected(tiny_bundle: Path) -> None:
    inspector = open_inspector(tiny_bundle, threads=1)
    assert inspector.inspect(good_part(100)).verdict is Verdict.PASS
    assert inspector.inspect(bad_part(100)).verdict is Verdict.REJECT
