"""The verbs recalibrate, rollback, info and verify, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_ad_calibration.history import History
from edge_ad_runtime.bundle import open_bundle
from tests.conftest import bad_part, good_part

COMMAND = "import sys; from edge_ad.cli import main; main(sys.argv[1:])"


def edge_ad(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def good_json(*arguments: object) -> dict[str, Any]:
    done = edge_ad(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for i in range(30):
        cv2.imwrite(str(folder / f"{i:02d}.png"), good_part(200 + i))
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_recalibrate_use_and_undo(tiny_bundle: Path, parts: Path, state: Path) -> None:
    before = tiny_bundle.read_bytes()
    bundle = open_bundle(tiny_bundle)
    first = good_json("recalibrate", tiny_bundle, "--images", parts, "--threads", 1, "--state", state)
    assert first["images"] == 30 and first["warnings"] == []
    assert first["after"]["source"] == str(parts)
    assert first["after"]["false_reject_rate"] == bundle.calibration.false_reject_rate
    history = History(state, bundle)
    assert history.current().threshold == first["after"]["threshold"]
    second = good_json(
        "recalibrate", tiny_bundle, "--camera", parts, "--frames", 25, "--false-reject-rate", 0.02,
        "--threads", 1, "--state", state,
    )  # fmt: skip
    assert second["before"] == first["after"]
    assert (second["images"], second["after"]["false_reject_rate"]) == (25, 0.02)

    info = good_json("info", tiny_bundle, "--state", state)
    assert info["id"] == bundle.id and info["model_bytes"] == len(bundle.model)
    assert info["calibration"]["current_number"] == 2
    assert [e["number"] for e in info["calibration"]["history"]] == [1, 2]
    assert info["report"] == {"note": "a test bundle"}

    text = edge_ad("rollback", tiny_bundle, "--state", state)
    assert text.returncode == 0 and "current from now on" in text.stdout
    assert history.current().threshold == first["after"]["threshold"]
    back = good_json("rollback", tiny_bundle, "--state", state)
    assert back["factory"] and back["after"]["threshold"] == bundle.calibration.threshold
    over = edge_ad("rollback", tiny_bundle, "--state", state)
    assert (over.returncode, over.stdout) == (1, "") and "nothing to undo" in over.stderr
    assert tiny_bundle.read_bytes() == before


def test_text_and_the_default_state_folder(tiny_bundle: Path, parts: Path, state: Path) -> None:
    done = edge_ad("recalibrate", tiny_bundle, "--images", parts, "--threads", 1, EDGE_AD_STATE=str(state))
    assert done.returncode == 0, done.stderr
    assert "threshold" in done.stdout and " -> " in done.stdout and str(state) in done.stdout
    assert "30/30 images" in done.stderr
    shown = edge_ad("info", tiny_bundle, EDGE_AD_STATE=str(state))
    assert shown.returncode == 0 and "field calibration 1" in shown.stdout and "*    1" in shown.stdout


def test_dry_run_and_given_threshold(tiny_bundle: Path, parts: Path, state: Path) -> None:
    done = good_json(
        "recalibrate", tiny_bundle, "--images", parts, "--threshold", 0.5, "--dry-run", "--state", state
    )
    assert done["written"] is None and done["after"]["method"] == "given"
    assert not state.exists()


def test_a_given_threshold_is_not_replaced_unasked(tiny_bundle: Path, parts: Path, state: Path) -> None:
    good_json("recalibrate", tiny_bundle, "--images", parts, "--threshold", 0.5, "--state", state)
    refused = edge_ad("recalibrate", tiny_bundle, "--images", parts, "--state", state)
    assert refused.returncode == 1
    assert "--threshold 0.5" in refused.stderr and "--false-reject-rate" in refused.stderr
    fitted = good_json(
        "recalibrate", tiny_bundle, "--images", parts, "--false-reject-rate", 0.01, "--state", state
    )
    assert fitted["after"]["method"] == "gumbel"


def test_a_bad_part_is_named_and_can_be_forced(
    tiny_bundle: Path, parts: Path, state: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in parts.iterdir():
        (folder / path.name).symlink_to(path)
    cv2.imwrite(str(folder / "scratched.png"), bad_part(1))
    arguments = ["recalibrate", tiny_bundle, "--images", folder, "--threads", 1, "--state", state]
    done = edge_ad(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "scratched.png" in done.stderr and "not changed" in done.stderr
    assert not state.exists()
    forced = edge_ad(*arguments, "--force")
    assert forced.returncode == 0 and "overridden: these images look bad" in forced.stdout


def test_a_source_that_ends_early_is_refused(tiny_bundle: Path, parts: Path, state: Path) -> None:
    done = edge_ad("recalibrate", tiny_bundle, "--camera", parts / "00.png", "--state", state)
    assert done.returncode == 1
    assert "ended after 1 of 100 frames" in done.stderr and "too few" in done.stderr


def test_a_broken_image_is_named(tiny_bundle: Path, parts: Path, state: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "cut.png").write_bytes((parts / "00.png").read_bytes()[:-20])
    done = edge_ad("recalibrate", tiny_bundle, "--images", folder, "--state", state)
    assert done.returncode == 1 and "cut.png: the file is cut off" in done.stderr
    assert not state.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --camera or --images"),
        (("--camera", "0", "--images", "x"), "either --camera or --images"),
        (("--images", "x", "--threshold", "nan"), "not a finite number"),
        (("--images", "x", "--threshold", "1", "--false-reject-rate", "0.1"), "exclude each other"),
        (("--images", "x", "--false-reject-rate", "1"), "0<x<1"),
        (("--camera", "0", "--frames", "0"), "--frames"),
    ],
)
def test_wrong_usage(tiny_bundle: Path, arguments: tuple[str, ...], message: str) -> None:
    done = edge_ad("recalibrate", tiny_bundle, *arguments)
    assert done.returncode == 2 and message in done.stderr


def _catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_stopped_while_it_looks(tiny_bundle: Path, parts: Path, state: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable, "-c", COMMAND, "recalibrate", str(tiny_bundle), "--camera", str(parts),
            "--interval-ms", "2000", "--threads", "1", "--state", str(state),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not _catches(process.pid, signal.SIGTERM):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and "interrupted" in errors
    assert not state.exists()


def test_damaged_state_is_reported_and_rolled_back(tiny_bundle: Path, parts: Path, state: Path) -> None:
    written = good_json("recalibrate", tiny_bundle, "--images", parts, "--threads", 1, "--state", state)
    Path(written["written"]).write_text("{}")
    info = edge_ad("info", tiny_bundle, "--state", state, "--json")
    assert info.returncode == 1 and "has changed" in info.stderr
    assert "has changed" in json.loads(info.stdout)["calibration"]["error"]
    assert edge_ad("info", tiny_bundle, "--state", state).returncode == 1
    back = edge_ad("rollback", tiny_bundle, "--state", state, "--json")
    assert back.returncode == 0 and json.loads(back.stdout)["factory"] is True
    after = edge_ad("info", tiny_bundle, "--state", state)
    assert after.returncode == 0 and "damaged: " in after.stdout


def test_verify(tiny_bundle: Path, tmp_path: Path) -> None:
    done = good_json("verify", tiny_bundle, "--threads", 1)
    assert done["ok"] is True and done["golden_samples"] == 1
    assert done["worst_deviation"] <= done["tolerance"]
    assert "worst deviation" in edge_ad("verify", tiny_bundle).stdout

    changed = bytearray(tiny_bundle.read_bytes())
    changed[changed.index(b"map_st") + 2] ^= 1
    broken = tmp_path / "broken.edgead"
    broken.write_bytes(changed)
    bad = edge_ad("verify", broken, "--json")
    assert bad.returncode == 1 and json.loads(bad.stdout)["ok"] is False and "broken.edgead" in bad.stderr

    folder = tmp_path / "unpacked.edgead"
    with zipfile.ZipFile(tiny_bundle) as archive:
        archive.extractall(folder)
    assert good_json("verify", folder)["ok"] is True
    (folder / "extra.txt").write_text("x")
    assert edge_ad("verify", folder).returncode == 1
    missing = edge_ad("verify", tmp_path / "none.edgead")
    assert missing.returncode == 1 and "no such bundle" in missing.stderr


@pytest.mark.parametrize("verb", ["recalibrate", "rollback", "info", "verify"])
def test_the_verbs_need_no_host_package(verb: str) -> None:
    script = (
        f"import sys, importlib; importlib.import_module('edge_ad.cli.{verb}'); "
        "print(sorted({'torch','onnx','onnxruntime','matplotlib','sklearn','tqdm','safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
