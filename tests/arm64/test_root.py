"""When the ARM64 root is refused, reused and built again; nothing is emulated here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from tests.arm64 import host
from tests.arm64.environments import platforms
from tests.arm64.processors import PROCESSORS
from tests.arm64.root import Arm64Error, default_folder, open_root, prepare_root

STAMP = "edge-ad-arm64-root.json"


def test_missing_tools_are_named_with_their_packages(tmp_path: Path) -> None:
    why = host.why_not("Linux x86_64", 0, {"PATH": str(tmp_path)})
    assert "apt install debootstrap qemu-user-static binfmt-support" in why
    for tool in host.TOOLS:
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    assert host.why_not("Linux x86_64", 0, {"PATH": str(tmp_path)}) == ""
    (tmp_path / "debootstrap").unlink()
    assert host.why_not("Linux x86_64", 0, {"PATH": str(tmp_path)}).endswith("apt install debootstrap")


def test_only_root_on_x86_can(tmp_path: Path) -> None:
    for tool in host.TOOLS:
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    env = {"PATH": str(tmp_path)}
    assert "sudo" in host.why_not("Linux x86_64", 1000, env)
    assert "edge-ad verify" in host.why_not("Linux aarch64", 0, env)


def test_without_the_tools_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_ADMIN", "/nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Arm64Error, match="apt install debootstrap"):
        prepare_root(tmp_path / "cache" / "root")
    assert not (tmp_path / "cache").exists()


def test_a_root_without_its_stamp_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    assert open_root(folder) is None
    folder.mkdir()
    assert open_root(folder) is None
    (folder / "usr").mkdir()
    with pytest.raises(Arm64Error, match="is not an ARM64 root"):
        open_root(folder)
    assert (folder / "usr").is_dir()


def test_a_root_of_another_making_is_built_again(tmp_path: Path) -> None:
    (tmp_path / STAMP).write_bytes(
        msgspec.json.encode({"suite": "bookworm", "packages": ["python3", "python3-venv"], "version": 1})
    )
    root = open_root(tmp_path)
    assert root is not None and root.folder == tmp_path
    (tmp_path / STAMP).write_bytes(msgspec.json.encode({"suite": "bullseye", "packages": [], "version": 1}))
    assert open_root(tmp_path) is None


def test_the_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_AD_ARM64_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "edge-ad" / "arm64-root"
    monkeypatch.setenv("EDGE_AD_ARM64_ROOT", "/srv/arm64")
    assert default_folder() == Path("/srv/arm64")


def test_wheels_up_to_the_roots_glibc() -> None:
    tags = [word for word in platforms() if word != "--platform"]
    assert {"manylinux_2_36_aarch64", "manylinux_2_28_aarch64", "manylinux_2_17_aarch64"} <= set(tags)
    assert "manylinux_2_37_aarch64" not in tags


def test_only_the_newer_processor_has_dot_products() -> None:
    newer, older = (PROCESSORS[name].cpuinfo(2) for name in ("cortex-a76", "cortex-a72"))
    assert newer.count("processor\t: ") == older.count("processor\t: ") == 2
    assert "asimddp" in newer and "asimddp" not in older


BUILD = "import sys; from pathlib import Path; from tests.arm64.root import prepare_root; prepare_root(Path(sys.argv[1]))"
# A script in debootstrap's place; the folder is its last argument. What Debian's own does, the study sees.
HALF = """#!/bin/sh
for folder; do :; done
mkdir -p "$folder/usr/bin"
echo $$ >"$folder/../started"
sleep 60
"""
WHOLE = """#!/bin/sh
for folder; do :; done
mkdir "$folder" && mkdir -p "$folder/usr/bin" && touch "$folder/usr/bin/python3.11"
"""
FAILING = """#!/bin/sh
echo 'E: no such mirror' >&2
exit 1
"""


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder ahead of all others on the PATH."""
    if why := host.why_not() or host.enable_emulation():
        pytest.skip(why)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def put(folder: Path, text: str) -> None:
    (folder / "debootstrap").write_text(text)
    (folder / "debootstrap").chmod(0o755)


def test_a_killed_build_leaves_no_root_and_nobody_who_goes_on(bin_folder: Path, tmp_path: Path) -> None:
    put(bin_folder, HALF)
    cache = tmp_path / "cache"
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(cache / "root")], cwd=Path(__file__).parents[2]
    )
    deadline = time.monotonic() + 30
    while not (cache / "started").exists():
        assert builder.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert (cache / ".root.building" / "usr").is_dir()
    assert open_root(cache / "root") is None
    while processes_of(cache / "root"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    put(bin_folder, WHOLE)
    root = prepare_root(cache / "root")
    assert open_root(cache / "root") == root
    assert not (cache / ".root.building").exists()
    put(bin_folder, FAILING)
    assert prepare_root(cache / "root") == root


def test_a_failed_build_says_why(bin_folder: Path, tmp_path: Path) -> None:
    put(bin_folder, FAILING)
    with pytest.raises(Arm64Error, match="no such mirror"):
        prepare_root(tmp_path / "root")
    assert open_root(tmp_path / "root") is None


def processes_of(folder: Path) -> list[str]:
    """The processes that have the building place of ``folder`` on their command line."""
    name = str(folder.with_name(f".{folder.name}.building")).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if name in command:
            found.append(process.name)
    return found
