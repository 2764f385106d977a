"""An ARM64 Debian with Python, built once into a folder, and commands run in it.

The root itself is never written to after it was built: commands see it read-only, with a fresh ``/tmp`` and
the job's folder at ``/mnt``. All mounts lie in a namespace of the command's own and end with it, however it
ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_ad_runtime.errors import EdgeAdError
from edge_ad_runtime.files import write_atomically
from tests.arm64 import host
from tests.arm64.processors import Processor

SUITE = "bookworm"
# Of that suite.
PYTHON = "3.11"
GLIBC = (2, 36)
PACKAGES = ("python3", "python3-venv")
_STAMP = "edge-ad-arm64-root.json"
# What a finished root was made from; another one is built again.
_MADE_FROM = {"suite": SUITE, "packages": list(PACKAGES), "version": 1}
# setpriv: were this process killed, what it started would go on building or computing.
_NAMESPACE = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--propagation",
    "private",
)
_ENTER = """
set -e
root=$1 job=$2 cpuinfo=$3
shift 3
ulimit -c 0  # qemu 7.2 can hang when it dumps core
mount -o bind,ro "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$cpuinfo" "$root/proc/cpuinfo"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$job" "$root/mnt"
exec chroot "$root" /bin/sh -c 'cd /mnt && exec "$@"' sh "$@"
"""


class Arm64Error(EdgeAdError):
    """The ARM64 root cannot be built or used, or a step in it failed."""


@dataclass(frozen=True)
class Root:
    """A finished root in ``folder``."""

    folder: Path

    def run(
        self, words: Sequence[str], job: Path, processor: Processor, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root; ``job`` is its working folder and, with ``/tmp``, all it can write to.

        Raises:
            Arm64Error: it took longer than ``timeout_s``.
        """
        cpuinfo = job / f"cpuinfo.{processor.qemu}"
        cpuinfo.write_text(processor.cpuinfo(os.cpu_count() or 1), encoding="ascii")
        paths = [str(p.resolve()) for p in (self.folder, job, cpuinfo)]
        command = [*_NAMESPACE, "sh", "-c", _ENTER, "sh", *paths, *words]
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            # The host's sh, mount and chroot ignore it; qemu reads it in everything after chroot.
            "QEMU_CPU": processor.qemu,
        }
        try:
            return subprocess.run(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Arm64Error(f"'{' '.join(words)}' took more than {timeout_s:g} s under emulation") from error


def default_folder() -> Path:
    """``$EDGE_AD_ARM64_ROOT``, else ``~/.cache/edge-ad/arm64-root`` (or under ``$XDG_CACHE_HOME``)."""
    if given := os.environ.get("EDGE_AD_ARM64_ROOT"):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edge-ad" / "arm64-root"


def open_root(folder: Path) -> Root | None:
    """The root in ``folder``; None where there is none, or one that was made from something else.

    Raises:
        Arm64Error: the folder holds something that is no such root.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        stamp = msgspec.json.decode((folder / _STAMP).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise Arm64Error(
            f"{folder}: is not an ARM64 root of edge-ad; remove it, or name another with EDGE_AD_ARM64_ROOT"
        ) from error
    return Root(folder) if stamp == _MADE_FROM else None


def prepare_root(folder: Path, mirror: str | None = None) -> Root:
    """The root in ``folder``, built first where it is missing: some minutes and 300 MB.

    It is built beside ``folder``, under another name, and renamed when it is complete. Only one process
    builds; others wait for it. ``mirror`` is a Debian mirror's address, by default debootstrap's.

    Raises:
        Arm64Error: this machine cannot (see :mod:`tests.arm64.host`), or debootstrap failed.
    """
    if why := host.why_not() or host.enable_emulation():
        raise Arm64Error(why)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if (root := open_root(folder)) is not None:
            return root
        building = folder.with_name(f".{folder.name}.building")
        _remove(building)
        _debootstrap(building, folder.with_name(f"{folder.name}.log"), mirror)
        write_atomically(building / _STAMP, msgspec.json.encode(_MADE_FROM))
        os.sync()
        _remove(folder)
        building.rename(folder)
    return Root(folder)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(folder: Path) -> None:
    """Remove a root, unless something is mounted in it: that would be removed, too."""
    if not folder.exists():
        return
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    if inside := [m.split()[4] for m in mounts if Path(m.split()[4]).is_relative_to(folder)]:
        raise Arm64Error(f"{folder}: {', '.join(inside)} is mounted; unmount it, then remove the folder")
    shutil.rmtree(folder)


def _debootstrap(folder: Path, log: Path, mirror: str | None) -> None:
    command = [
        *_NAMESPACE, "debootstrap", "--arch", "arm64", "--variant", "minbase",
        "--include", ",".join(PACKAGES), SUITE, str(folder), *([mirror] if mirror else []),
    ]  # fmt: skip
    with log.open("wb") as file:
        done = subprocess.run(
            command, env=host.environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
        )
    if done.returncode or not (folder / "usr" / "bin" / f"python{PYTHON}").exists():
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
        raise Arm64Error(f"debootstrap failed ({' '.join(last)}); all it said is in {log}")
