"""The whole job: install edge-ad in the ARM64 root, run bundles there and here, compare."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.images import list_images
from tests.arm64.compare import Comparison, Side, measure, score_difference, verdicts_differing
from tests.arm64.environments import ENVIRONMENTS, Environment, Installed, build_wheel, install
from tests.arm64.processors import Processor
from tests.arm64.root import Arm64Error, Root

# An emulated image of size n takes seconds; this is for a folder of them.
_RUN_TIMEOUT_S = 3600.0
# `edge-ad` of this interpreter, whatever is on the PATH.
MAIN = "import sys; from edge_ad.cli import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Task:
    """A bundle, and the folder of images that it is to inspect."""

    bundle: Path
    images: Path


class Result(msgspec.Struct, frozen=True):
    """What was installed and how the bundles compared."""

    installed: tuple[Installed, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether all of it went as it should."""
        return all(i.error is None for i in self.installed) and all(c.passed for c in self.comparisons)


def check_tasks(tasks: Sequence[Task]) -> list[Bundle]:
    """Open the bundles, before minutes of work.

    Raises:
        BundleError: one is damaged.
        Arm64Error: one is for an engine that cannot be emulated, two have the same name, or a folder is none.
    """
    bundles = [open_bundle(task.bundle) for task in tasks]
    names = [task.bundle.name for task in tasks]
    if doubled := sorted({n for n in names if names.count(n) > 1}):
        raise Arm64Error(f"two bundles are named {doubled[0]}; rename one, the table goes by names")
    known = {e.target for e in ENVIRONMENTS}
    for task, bundle in zip(tasks, bundles, strict=True):
        if bundle.manifest.target not in known:
            raise Arm64Error(
                f"{task.bundle}: is for {bundle.manifest.target}, which needs its own hardware; "
                "run 'edge-ad verify' on the device"
            )
        if not task.images.is_dir() or not list_images(task.images):
            raise Arm64Error(f"{task.images}: is not a folder with images directly in it")
    return bundles


def run_job(
    root: Root,
    tasks: Sequence[Task],
    processors: Sequence[Processor],
    environments: Sequence[Environment],
    job: Path,
    say: Callable[[str], None],
) -> Result:
    """Install ``environments`` and run each bundle in those of its target, on each processor.

    ``job`` is an empty folder, all of whose content may be thrown away afterwards. Failures of an
    installation or of a bundle are in the result.

    Raises:
        BundleError, Arm64Error: see :func:`check_tasks`; or no wheel of edge-ad could be built.
    """
    bundles = check_tasks(tasks)
    say("building the wheel")
    wheel = build_wheel(job)
    installed = []
    for environment in environments:
        say(f"installing {environment.name}")
        installed.append(install(root, environment, job, wheel))
    usable = {i.environment for i in installed if i.error is None}
    comparisons: list[Comparison] = []
    for task, bundle in zip(tasks, bundles, strict=True):
        place = Path("bundles") / task.bundle.stem
        shutil.copytree(task.images, job / place / "images")
        copy = shutil.copytree if task.bundle.is_dir() else shutil.copyfile
        copy(task.bundle, job / place / task.bundle.name)
        say(f"{task.bundle.name} on x86")
        x86 = partial(
            measure, partial(_on_host, job), job, str(place / task.bundle.name), str(place / "images")
        )
        try:
            here: Side | Arm64Error = x86(str(place / "x86.jsonl"))
        except Arm64Error as error:
            here = Arm64Error(f"on x86: {error}")
        for environment in environments:
            if environment.target != bundle.manifest.target or environment.name not in usable:
                continue
            for processor in processors:
                say(f"{task.bundle.name} in {environment.name} on {processor.qemu}")
                edge_ad = partial(_in_root, root, job, environment, processor)
                events = str(place / f"{environment.name}.{processor.qemu}.jsonl")
                there = partial(
                    measure, edge_ad, job, str(place / task.bundle.name), str(place / "images"), events
                )
                comparisons.append(_compare(task, bundle, environment, processor, here, there))
    return Result(tuple(installed), tuple(comparisons))


def _compare(
    task: Task,
    bundle: Bundle,
    environment: Environment,
    processor: Processor,
    here: Side | Arm64Error,
    measure_there: Callable[[], Side],
) -> Comparison:
    blank = Comparison(
        bundle=task.bundle.name,
        target=bundle.manifest.target,
        precision=bundle.manifest.precision,
        environment=environment.name,
        processor=processor.qemu,
        score_bound=environment.score_bound,
    )
    try:
        if isinstance(here, Arm64Error):
            raise here
        there = measure_there()
        return msgspec.structs.replace(
            blank,
            engine_x86=here.engine,
            engine_arm64=there.engine,
            images=len(there.parts),
            golden_x86=here.golden_deviation,
            golden_arm64=there.golden_deviation,
            golden_tolerance=there.golden_tolerance,
            score_difference=score_difference(here.parts, there.parts),
            verdicts_differing=verdicts_differing(here.parts, there.parts),
        )
    except Arm64Error as error:
        return msgspec.structs.replace(blank, error=str(error))


def _on_host(job: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        cwd=job,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _in_root(
    root: Root, job: Path, environment: Environment, processor: Processor, words: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    command = [f"environments/{environment.name}/bin/edge-ad", *words]
    return root.run(command, job, processor, _RUN_TIMEOUT_S)
