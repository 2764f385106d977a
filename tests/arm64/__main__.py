"""Does a device with an ARM64 processor compute what this machine does?

    sudo -E python -m tests.arm64 [BUNDLE=IMAGES …] [-o RESULT.json]

Builds an ARM64 Debian once (EDGE_AD_ARM64_ROOT, by default ~/.cache/edge-ad/arm64-root), installs the wheel
of the working tree there, slim and with each engine, from aarch64 wheels, and runs each BUNDLE under emulation over
the folder IMAGES: golden samples, then `edge-ad run`. Scores must equal those of x86 to within a bound,
verdicts exactly. Says nothing about speed: emulated times mean nothing. Needs Debian's debootstrap,
qemu-user-static and binfmt-support, a package index that pip can reach, and root.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.files import write_atomically
from tests.arm64.compare import table
from tests.arm64.environments import ENVIRONMENTS
from tests.arm64.job import Result, Task, check_tasks, run_job
from tests.arm64.processors import PROCESSORS
from tests.arm64.root import default_folder, prepare_root


def parse_task(text: str) -> Task:
    """``BUNDLE=IMAGES``.

    Raises:
        ValueError: it is something else.
    """
    bundle, equals, images = text.rpartition("=")
    if not equals or not bundle or not images:
        raise ValueError(f"'{text}' is not BUNDLE=IMAGES")
    return Task(Path(bundle), Path(images))


def _task(text: str) -> Task:
    try:
        return parse_task(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """The command line; ends the process with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.arm64",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [e.name for e in ENVIRONMENTS]
    parser.add_argument("tasks", nargs="*", type=_task, metavar="BUNDLE=IMAGES")
    parser.add_argument("-o", "--out", type=Path, help="write the result as JSON here")
    parser.add_argument("--root", type=Path, default=default_folder(), help="folder of the ARM64 root")
    parser.add_argument("--mirror", help="a Debian mirror [default: debootstrap's]")
    parser.add_argument(
        "--processor", action="append", choices=sorted(PROCESSORS), help="repeatable [default: all]"
    )
    parser.add_argument("--environment", action="append", choices=names, help="repeatable [default: all]")
    return parser.parse_args(words)


def summary(result: Result) -> str:
    """What was installed and how the bundles compared, as Markdown."""
    lines = ["| environment | MB | packages |", "|---|---|---|"]
    for i in result.installed:
        note = "" if i.declared else "not edge-ad's own requirements: "
        packages = ", ".join(f"{name} {version}" for name, version in i.packages.items())
        lines.append(f"| {i.environment} | {i.megabytes:.0f} | {i.error or note + packages} |")
    if result.comparisons:
        lines += ["", table(result.comparisons)]
        lines += [f"differs: {c.bundle}, {v}" for c in result.comparisons for v in c.verdicts_differing]
    return "\n".join(lines)


def main(words: list[str]) -> int:
    options = parse_arguments(words)
    try:
        check_tasks(options.tasks)
        root = prepare_root(options.root, options.mirror)
        with tempfile.TemporaryDirectory(prefix="edge-ad-arm64-") as job:
            result = run_job(
                root,
                options.tasks,
                [p for p in PROCESSORS.values() if p.qemu in (options.processor or PROCESSORS)],
                [e for e in ENVIRONMENTS if not options.environment or e.name in options.environment],
                Path(job),
                lambda text: print(text, file=sys.stderr, flush=True),
            )
        print(summary(result))
        if options.out:
            write_atomically(options.out, msgspec.json.format(msgspec.json.encode(result), indent=2))
    except (EdgeAdError, OSError) as error:
        print(f"tests.arm64: {error}", file=sys.stderr)
        return 1
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
