"""The whole job under emulation, on bundles made here. Builds the ARM64 root where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.arm64 import host
from tests.arm64.__main__ import summary
from tests.arm64.environments import ENVIRONMENTS
from tests.arm64.job import MAIN, Result, Task, run_job
from tests.arm64.processors import PROCESSORS
from tests.arm64.root import default_folder, prepare_root

pytestmark = pytest.mark.study
TARGETS = ("ort", "tflite", "openvino")


def convert(run: Path, parts: Path, target: str, out: Path) -> Path:
    """A small INT8 bundle."""
    words = ["convert", str(run), "-o", str(out), "--target", target, "--precision", "int8"]
    words += ["--calibration-images", str(parts / "train" / "good")]
    subprocess.run([sys.executable, "-c", MAIN, *words], check=True)
    return out


@pytest.fixture(scope="module")
def result(
    tiny_bundle: Path, short_run: Path, parts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    if why := host.why_not() or host.enable_emulation():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("arm64")
    images, job = folder / "images", folder / "job"
    job.mkdir()
    images.mkdir()
    for path in sorted((parts / "test").rglob("*.png")):
        shutil.copyfile(path, images / f"{path.parent.name}_{path.name}")
    bundles = [convert(short_run, parts, target, folder / f"{target}.edgead") for target in TARGETS]
    return run_job(
        prepare_root(default_folder()),
        [Task(bundle, images) for bundle in (tiny_bundle, *bundles)],
        list(PROCESSORS.values()),
        ENVIRONMENTS,
        job,
        lambda text: print(text, file=sys.stderr),
    )


def test_the_slim_package_and_each_engine_install(result: Result) -> None:
    assert {i.environment: i.error for i in result.installed} == dict.fromkeys(
        (e.name for e in ENVIRONMENTS), None
    )
    sizes = {i.environment: i.megabytes for i in result.installed}
    assert sizes["slim"] == min(sizes[name] for name in ("slim", "ort", "tflite", "openvino")) < 400


def test_bundles_compute_on_arm64_what_they_do_on_x86(result: Result) -> None:
    print(summary(result))
    # The tiny bundle, one of ort, one of openvino, and one of tflite on both of its runtimes.
    assert len(result.comparisons) == 5 * len(PROCESSORS)
    refused = {(c.environment, c.processor): c.error for c in result.comparisons if c.error is not None}
    # OpenVINO compiles INT8 for processors with half precision, which the older one lacks.
    assert list(refused) == [("openvino", "cortex-a72")]
    assert "OpenVINO refuses the model" in (refused["openvino", "cortex-a72"] or "")
    for comparison in (c for c in result.comparisons if c.error is None):
        assert comparison.images == 6
        assert (
            comparison.score_difference is not None and comparison.score_difference <= comparison.score_bound
        )
        assert comparison.verdicts_differing == ()
        assert comparison.passed
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result
