"""A real installation into an empty environment: what a device gets, and what it says when it lacks something.

The steps run once, in the order of a user's; each test looks at what was recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import bad_part, good_part

ROOT = Path(__file__).parents[2]
# The base dependencies of pyproject.toml; none of them brings another package on Linux.
SLIM = {"edge-ad", "numpy", "opencv-python-headless", "click", "pyserial", "msgspec"}
_LIST = """
import importlib.metadata, json
print(json.dumps(sorted(d.metadata["Name"].lower() for d in importlib.metadata.distributions())))
"""


@dataclass(frozen=True)
class Environment:
    """An environment outside the repository and what its commands did."""

    python: Path
    distributions: set[str]
    megabytes: float
    done: dict[str, subprocess.CompletedProcess[str]]


def _run(python: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment in a folder that is not the repository."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [python.parent / words[0], *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _pip(python: Path, folder: Path, what: str) -> None:
    done = _run(python, folder, "python", "-m", "pip", "install", "--disable-pip-version-check", "-q", what)
    assert done.returncode == 0, done.stderr


def _state(python: Path, folder: Path, done: dict[str, subprocess.CompletedProcess[str]]) -> Environment:
    listed = _run(python, folder, "python", "-c", _LIST)
    packages = next(python.parents[1].glob("lib/python3*/site-packages"))
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    size = sum(
        p.stat().st_size
        for top in packages.iterdir()
        if not top.name.startswith(tools)
        for p in ([top] if top.is_file() else top.rglob("*"))
        if p.is_file()
    )
    return Environment(python, set(json.loads(listed.stdout)), size / 1e6, done)


def _device_commands(bundle: Path, folder: Path) -> dict[str, tuple[str | Path, ...]]:
    return {
        "--help": ("edge-ad", "--help"),
        "train": ("edge-ad", "train", folder, "-o", folder / "run"),
        "convert": ("edge-ad", "convert", folder, "-o", folder / "x.edgead"),
        "info": ("edge-ad", "info", bundle),
        "verify": ("edge-ad", "verify", bundle),
        "run": ("edge-ad", "run", bundle, "--camera", folder / "belt", "--events", "jsonl:-"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cv2

    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "belt").mkdir()
    for i, image in enumerate((good_part(100), bad_part(101), good_part(102))):
        cv2.imwrite(str(folder / "belt" / f"{i}.png"), image)
    return folder


@pytest.fixture(scope="module")
def slim(tiny_bundle: Path, folder: Path) -> Environment:
    """``pip install .`` into an empty environment."""
    home = folder / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    _pip(python, folder, str(ROOT))
    done = {
        name: _run(python, folder, *words) for name, words in _device_commands(tiny_bundle, folder).items()
    }
    return _state(python, folder, done)


@pytest.fixture(scope="module")
def with_ort(slim: Environment, tiny_bundle: Path, folder: Path) -> Environment:
    """The same after ``pip install '.[ort]'``."""
    _pip(slim.python, folder, f"{ROOT}[ort]")
    done = {
        name: _run(slim.python, folder, *words)
        for name, words in _device_commands(tiny_bundle, folder).items()
    }
    return _state(slim.python, folder, done)


def test_only_the_slim_set_is_installed(slim: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    assert slim.distributions - {"pip", "setuptools"} == SLIM
    with capsys.disabled():
        print(f"\ndevice install: {slim.megabytes:.1f} MB")
    assert slim.megabytes < 400


def test_the_package_brings_its_types_and_its_teacher(slim: Environment) -> None:
    packages = next(slim.python.parents[1].glob("lib/python3*/site-packages"))
    for name in ("edge_ad", "edge_ad_converters", "edge_ad_calibration", "edge_ad_runtime"):
        assert (packages / name / "py.typed").is_file()
    assert (packages / "edge_ad" / "teachers" / "n.safetensors").stat().st_size < 4e6
    # The rooms' own names are not packages.
    assert not {"sdk", "runtime", "converters", "calibration", "tests", "examples"} & {
        p.name for p in packages.iterdir()
    }


def test_help_needs_no_extra(slim: Environment) -> None:
    done = slim.done["--help"]
    assert done.returncode == 0, done.stderr
    assert "recalibrate" in done.stdout


@pytest.mark.parametrize("verb", ["train", "convert"])
def test_host_verbs_name_their_extra(slim: Environment, verb: str) -> None:
    done = slim.done[verb]
    assert done.returncode == 1
    assert "pip install 'edge-ad[host]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["verify", "run"])
def test_an_engine_that_is_missing_is_named(slim: Environment, verb: str) -> None:
    done = slim.done[verb]
    assert done.returncode == 1
    assert "pip install 'edge-ad[ort]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_info_needs_no_engine(slim: Environment) -> None:
    done = slim.done["info"]
    assert done.returncode == 0, done.stderr
    assert "tiny" in done.stdout


def test_with_the_extra_the_bundle_runs(with_ort: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("info", "verify", "run"):
        done = with_ort.done[verb]
        assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in with_ort.done["run"].stdout.splitlines()]
    assert [e["verdict"] for e in events] == ["pass", "reject", "pass"]
    assert "onnxruntime" in with_ort.distributions
    assert not {"torch", "onnx", "matplotlib", "scikit-learn", "safetensors"} & with_ort.distributions
    with capsys.disabled():
        print(f"\ndevice install with ort: {with_ort.megabytes:.1f} MB")


def test_without_the_extra_the_host_verbs_still_name_theirs(with_ort: Environment) -> None:
    done = with_ort.done["train"]
    assert done.returncode == 1
    assert "pip install 'edge-ad[host]'" in done.stderr


def test_the_environment_is_not_this_one(slim: Environment) -> None:
    assert slim.python.parent != Path(sys.executable).parent
