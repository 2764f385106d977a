"""Atomic writes: failing and being killed at every step, and what killed processes leave behind."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_ad_runtime.files import (
    folder_written_atomically,
    make_folder,
    remove_leftovers,
    write_atomically,
)

LEFT = ".data.json.ab3_x9zk.edge-ad-part"


def temporary_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def test_write_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    for content in (b"one", b"", b"two" * 100_000):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o644
        assert temporary_names(tmp_path) == []


def test_other_names_of_the_old_file_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"


WRITE_STEPS: list[tuple[Any, str]] = [
    (tempfile, "mkstemp"),
    (os, "fdopen"),
    (os, "fchmod"),
    (os, "fsync"),
    (Path, "replace"),
]


@pytest.mark.parametrize(("owner", "name"), WRITE_STEPS, ids=[n for _, n in WRITE_STEPS])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()], ids=repr)
def test_a_failing_step_leaves_the_old_file(
    owner: Any, name: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.json"
    write_atomically(path, b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(type(error)):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert temporary_names(tmp_path) == []
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_disk_that_takes_only_a_part(tmp_path: Path) -> None:
    """A real short write: the process may not make files larger than 4 KiB."""
    path = tmp_path / "data.json"
    path.write_bytes(b"old")
    script = (
        "import sys; from pathlib import Path; from edge_ad_runtime.files import write_atomically\n"
        "try: write_atomically(Path(sys.argv[1]), b'n' * 100_000)\n"
        "except OSError as error: print(error.errno)"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(errno.EFBIG)
    assert path.read_bytes() == b"old"
    assert temporary_names(tmp_path) == []


KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from edge_ad_runtime.files import folder_written_atomically, write_atomically
path, owner, name, count, after = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4]), sys.argv[5] == "after"
owner = {"os": os, "tempfile": tempfile, "Path": Path}[owner]
real = getattr(owner, name)
def killing(*args, **kwargs):
    global count
    count -= 1
    if count == 0 and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **kwargs)
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, killing)
if path.suffix:
    write_atomically(path, b"new")
else:
    with folder_written_atomically(path) as folder:
        (folder / "inside.txt").write_bytes(b"new")
"""


def kill_at(path: Path, owner: str, name: str, count: int, when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), owner, name, str(count), when], check=False
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("owner", "name", "count", "when", "expected"),
    [
        ("tempfile", "mkstemp", 1, "after", b"old"),
        ("os", "fchmod", 1, "before", b"old"),
        ("os", "fsync", 1, "before", b"old"),
        ("Path", "replace", 1, "before", b"old"),
        ("Path", "replace", 1, "after", b"new"),
        ("os", "fsync", 2, "before", b"new"),
    ],
)
def test_killed_at_each_step(
    owner: str, name: str, count: int, when: str, expected: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b"old")
    kill_at(path, owner, name, count, when)
    assert path.read_bytes() == expected
    assert len(temporary_names(tmp_path)) == (expected == b"old")
    write_atomically(tmp_path / "another.json", b"x")  # any write in the folder cleans up
    assert temporary_names(tmp_path) == []
    assert path.read_bytes() == expected


@pytest.mark.parametrize(
    ("owner", "name", "count", "there"), [("os", "fsync", 1, False), ("os", "fsync", 3, True)]
)
def test_a_folder_killed(owner: str, name: str, count: int, there: bool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    kill_at(path, owner, name, count, "before")
    assert path.exists() is there
    assert len(temporary_names(tmp_path)) == (not there)
    write_atomically(tmp_path / "data.json", b"x")
    assert temporary_names(tmp_path) == []
    if not there:
        with folder_written_atomically(path) as folder:
            (folder / "inside.txt").write_bytes(b"new")
    assert (path / "inside.txt").read_bytes() == b"new"


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        folder_written_atomically(tmp_path / "deep" / "run") as folder,
    ):
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_bytes(b"x")
        raise RuntimeError("stop")
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_bytes(b"x")
    with pytest.raises(OSError, match="not empty"), folder_written_atomically(tmp_path / "full"):
        pass
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["kept"]
    assert temporary_names(tmp_path) == []


def test_a_file_being_written_is_left_alone(tmp_path: Path) -> None:
    """The lock of a living writer protects its file, a dead one's is gone with it."""
    (tmp_path / LEFT).write_bytes(b"half")
    with (tmp_path / LEFT).open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        write_atomically(tmp_path / "data.json", b"x")
        assert temporary_names(tmp_path) == [LEFT]
    write_atomically(tmp_path / "data.json", b"x")
    assert temporary_names(tmp_path) == []


def test_a_folder_being_written_is_left_alone(tmp_path: Path) -> None:
    with folder_written_atomically(tmp_path / "run") as folder:
        write_atomically(tmp_path / "data.json", b"x")
        assert folder.is_dir()
        (folder / "inside.txt").write_bytes(b"x")
    assert (tmp_path / "run" / "inside.txt").is_file()


@pytest.mark.parametrize(
    "name",
    [
        ".data.json.ab3_x9zk.part",
        ".data.json.ab3_x9zk.edge-ad-part.bak",
        "data.json.ab3_x9zk.edge-ad-part",
        ".data.json.AB3_x9zk.edge-ad-part",
        ".data.json.ab3_x9z.edge-ad-part",
        ".ab3_x9zk.edge-ad-part",
        ".edge-ad-part",
    ],
)
def test_names_that_are_not_ours_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"precious")
    write_atomically(tmp_path / "data.json", b"x")
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_link_with_our_name_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x")
    (tmp_path / LEFT).symlink_to(tmp_path / "precious")
    remove_leftovers(tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"x"


def test_removing_never_raises(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "missing")
    (tmp_path / "file").write_bytes(b"x")
    remove_leftovers(tmp_path / "file")


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    """Each cleans up while the others write; nobody loses a file to another's cleaning."""
    path = tmp_path / "data.json"
    errors: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(25):
                write_atomically(path, content)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    contents = [bytes([65 + i]) * 5000 for i in range(4)]
    threads = [threading.Thread(target=write, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_bytes() in contents
    assert temporary_names(tmp_path) == []


def test_a_cleaner_between_creation_and_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one moment without protection: the writer notices that its file was taken and starts again."""
    real: Callable[..., tuple[int, str]] = tempfile.mkstemp
    stolen: list[str] = []

    def stealing(*args: Any, **kwargs: Any) -> tuple[int, str]:
        handle, name = real(*args, **kwargs)
        if len(stolen) < 3:
            stolen.append(name)
            remove_leftovers(tmp_path)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", stealing)
    write_atomically(tmp_path / "data.json", b"x")
    assert len(set(stolen)) == 3
    assert not any(Path(name).exists() for name in stolen)
    assert (tmp_path / "data.json").read_bytes() == b"x"


def test_make_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError):
        make_folder(tmp_path / "file" / "b")


def test_a_missing_folder_is_named_not_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(tmp_path / "none" / "x.json", b"")
    assert error.value.filename == str(tmp_path / "none")
