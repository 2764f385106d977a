"""The virtual environments of a device, one for each engine, installed offline from aarch64 wheels."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_ad_runtime.engines import Target
from tests.arm64.processors import PROCESSORS
from tests.arm64.root import GLIBC, PYTHON, Arm64Error, Root

_PROJECT = Path(__file__).parents[2]
_INSTALLER = "installer"
_INSTALL_TIMEOUT_S = 900.0

# How far a score on ARM64 may be from the one on x86, relative to the larger of score and threshold. Measured on
# trained INT8 bundles on cortex-a76: LiteRT 2e-7, onnxruntime 0.4 %, OpenVINO 0.3 %. The integers of convolutions
# are the same; upsampling rounds values halfway between two of them, which float arithmetic in another order
# moves up or down. Verdicts must be equal whatever the scores.
SCORE_BOUND = 0.02
# tflite-runtime 2.14 is compared with LiteRT on x86, whose kernels are years younger and round otherwise: 0.4 % on a
# trained bundle, 2.8 % on an untrained one.
OTHER_ENGINE_BOUND = 0.05


@dataclass(frozen=True)
class Environment:
    """An environment that has edge-ad with ``extra``, for bundles of ``target``.

    ``score_bound`` is how far its scores may be from those on x86, relative to the larger of score and threshold.
    Where ``requirements`` stand, edge-ad is installed without its declared ones and these are taken instead.
    """

    name: str
    target: Target | None
    extra: str | None = None
    requirements: tuple[str, ...] = ()
    score_bound: float = SCORE_BOUND


ENVIRONMENTS = (
    Environment("slim", None),
    Environment("ort", "ort", "ort"),
    Environment("tflite", "tflite", "tflite"),
    # tflite-runtime 2.14 is built against numpy 1 and does not say so; OpenCV's wheels since 4.12 need
    # numpy 2. What edge-ad asks for and this runtime needs cannot both be had.
    Environment(
        "tflite-runtime",
        "tflite",
        requirements=(
            "tflite-runtime==2.14.0", "numpy<2", "opencv-python-headless<4.12", "click", "pyserial", "msgspec",
        ),
        score_bound=OTHER_ENGINE_BOUND,
    ),
    Environment("openvino", "openvino", "openvino"),
)  # fmt: skip


class Installed(msgspec.Struct, frozen=True):
    """What an installation brought: packages with their versions, and megabytes (1e6 bytes) on disk.

    ``declared`` says whether the requirements were edge-ad's own; ``error`` why it was not installed.
    """

    environment: str
    packages: dict[str, str]
    megabytes: float
    declared: bool
    error: str | None = None


def build_wheel(out: Path) -> Path:
    """The wheel of the working tree.

    Raises:
        Arm64Error: pip or the build failed.
    """
    _pip("wheel", "--no-deps", "--wheel-dir", out, _PROJECT)
    return next(out.glob("edge_ad-*.whl"))


def platforms() -> list[str]:
    """The wheel platforms that the root takes, pip's options (pip takes the older ones for none of them)."""
    major, minor = GLIBC
    tags = [f"manylinux_{major}_{n}_aarch64" for n in range(minor, 16, -1)]
    return [word for tag in (*tags, "manylinux2014_aarch64") for word in ("--platform", tag)]


def install(root: Root, environment: Environment, job: Path, wheel: Path) -> Installed:
    """Make the environment ``job/environments/NAME`` in the root; a failure is recorded, not raised.

    Raises:
        Arm64Error: the tools for installing could not be made; no environment would work.
    """
    wheels = job / "wheels" / environment.name
    home = Path("environments") / environment.name
    declared = not environment.requirements
    wanted = [f"{wheel}[{environment.extra}]" if environment.extra else str(wheel)] if declared else []
    _prepare_installer(root, job)
    try:
        target = ("--only-binary=:all:", *platforms(), "--python-version", PYTHON, "--dest", str(wheels))
        _pip("download", *target, *wanted, *environment.requirements)
        if not declared:
            _pip("download", *target, "--no-deps", str(wheel))
        _in_root(root, job, "python3", "-m", "venv", "--without-pip", str(home))
        for words in _installations(environment):
            _in_root(
                root, job, f"environments/{_INSTALLER}/bin/pip", "--python", f"{home}/bin/python", "install",
                "--quiet", "--no-index", "--find-links", f"wheels/{environment.name}", *words,
            )  # fmt: skip
    except Arm64Error as error:
        return Installed(environment.name, {}, 0.0, declared, str(error))
    packages = job / home / "lib" / f"python{PYTHON}" / "site-packages"
    return Installed(environment.name, _distributions(packages), _megabytes(packages), declared)


def _installations(environment: Environment) -> list[list[str]]:
    if environment.requirements:
        return [list(environment.requirements), ["--no-deps", "edge-ad"]]
    return [[f"edge-ad[{environment.extra}]" if environment.extra else "edge-ad"]]


def _prepare_installer(root: Root, job: Path) -> None:
    """An environment with pip, so that the others need none and their sizes are edge-ad's."""
    if not (job / "environments" / _INSTALLER).exists():
        _in_root(root, job, "python3", "-m", "venv", f"environments/{_INSTALLER}")


def _in_root(root: Root, job: Path, *words: str) -> None:
    done = root.run(words, job, PROCESSORS["cortex-a76"], _INSTALL_TIMEOUT_S)
    if done.returncode:
        raise Arm64Error(f"'{' '.join(words[:5])} …' failed in the ARM64 root: {last_line(done.stderr)}")


def _pip(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Arm64Error(f"pip {words[0]} failed: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _distributions(packages: Path) -> dict[str, str]:
    """Name -> version, from the names of the folders that pip leaves."""
    found = (re.fullmatch(r"(.+)-([^-]+)\.dist-info", p.name) for p in sorted(packages.iterdir()))
    return {m[1].replace("_", "-"): m[2] for m in found if m}


def _megabytes(packages: Path) -> float:
    return sum(p.stat().st_size for p in packages.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6
