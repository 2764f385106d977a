"""Whether this machine can run ARM64 programs in a root of their own."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

# Tool -> the Debian package that has it.
TOOLS = {
    "debootstrap": "debootstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "update-binfmts": "binfmt-support",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "chroot": "coreutils",
}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
# Where Debian keeps what only root uses; often not on the PATH.
_ADMIN = "/usr/local/sbin:/usr/sbin:/sbin"


def environment() -> dict[str, str]:
    """This process's environment with the administrator's tools on the PATH."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{_ADMIN}"}


def why_not(machine: str | None = None, user: int | None = None, env: Mapping[str, str] | None = None) -> str:
    """Why this machine cannot do it and what to do about that; an empty text if it can.

    Looks only, changes nothing. The arguments stand in for the machine's own.
    """
    machine = machine or f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        return (
            f"needs an x86-64 Linux to compare with, this is {machine}; on ARM64 use 'edge-ad verify' itself"
        )
    path = (env or environment())["PATH"]
    # As keys, each package once and in the order of the table.
    if absent := dict.fromkeys(p for tool, p in TOOLS.items() if shutil.which(tool, path=path) is None):
        return f"needs Debian packages that are not installed: apt install {' '.join(absent)}"
    if (os.geteuid() if user is None else user) != 0:
        return "needs root, to make device nodes and mounts in the ARM64 root: run it with sudo"
    return ""


def enable_emulation() -> str:
    """Let the kernel start ARM64 programs through qemu; returns why it does not, or an empty text.

    The registration lasts until the machine restarts. It needs binfmt_misc, which some containers lack.
    """
    entry = _BINFMT / "qemu-aarch64"
    if not (_BINFMT / "status").exists():
        subprocess.run(
            ["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT], check=False, capture_output=True
        )
    if not entry.exists():
        subprocess.run(
            ["update-binfmts", "--enable", "qemu-aarch64"],
            check=False,
            capture_output=True,
            env=environment(),
        )
    if not entry.exists():
        return f"the kernel does not take qemu-aarch64 in {_BINFMT}; a container must be privileged for that"
    # Without F the interpreter would have to lie inside the root.
    flags = entry.read_text(encoding="ascii").partition("flags:")[2].split()
    if not flags or "F" not in flags[0]:
        return f"{entry} lacks the flag F; install qemu-user-static 5.2 or newer, which sets it"
    return ""
