"""The history: what is current, undo, damage, several processes."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_ad_calibration.history import POINTER, Entry, History
from edge_ad_runtime.bundle import Bundle, open_bundle
from edge_ad_runtime.calibration import Calibration
from edge_ad_runtime.errors import CalibrationError
from edge_ad_runtime.state import default_state_dir


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture
def history(bundle: Bundle, tmp_path: Path) -> History:
    return History(tmp_path / "state", bundle)


def variant(bundle: Bundle, threshold: float) -> Calibration:
    return msgspec.structs.replace(bundle.calibration, threshold=threshold)


def threshold_of(entry: Entry) -> float:
    assert entry.calibration is not None and entry.problem is None
    return entry.calibration.threshold


def test_without_a_field_calibration_it_is_the_factory_one(bundle: Bundle, history: History) -> None:
    assert history.current() == bundle.calibration
    assert history.entries() == ()
    assert not history.folder.parent.exists()  # reading creates nothing


def test_append_and_undo_down_to_the_factory(bundle: Bundle, history: History) -> None:
    for value in (1.0, 2.0, 3.0):
        entry = history.append(variant(bundle, value))
        assert entry.path.is_file() and entry.current
        assert history.current().threshold == value
    assert [e.number for e in history.entries()] == [1, 2, 3]
    assert [history.rollback().threshold for _ in range(2)] == [2.0, 1.0]
    assert history.rollback() == bundle.calibration == history.current()
    with pytest.raises(CalibrationError, match="nothing to undo"):
        history.rollback()
    assert [(threshold_of(e), e.current, e.undone) for e in history.entries()] == [
        (1.0, False, True),
        (2.0, False, True),
        (3.0, False, True),
    ]


def test_undoing_leads_past_what_was_undone_before(bundle: Bundle, history: History) -> None:
    history.append(variant(bundle, 1.0))
    history.append(variant(bundle, 2.0))
    history.rollback()
    assert history.append(variant(bundle, 3.0)).number == 3
    assert history.rollback().threshold == 1.0


def test_undoing_nothing_writes_nothing(history: History) -> None:
    with pytest.raises(CalibrationError, match="nothing to undo"):
        history.rollback()
    assert not history.folder.parent.exists()


def test_entries_never_change(bundle: Bundle, history: History) -> None:
    first = history.append(variant(bundle, 1.0)).path
    content, when = first.read_bytes(), first.stat().st_mtime_ns
    history.append(variant(bundle, 1.0))
    history.rollback()
    history.append(variant(bundle, 2.0))
    assert (first.read_bytes(), first.stat().st_mtime_ns) == (content, when)
    assert len(history.entries()) == 3


def test_bundles_do_not_mix(bundle: Bundle, history: History) -> None:
    other = msgspec.structs.replace(bundle.calibration, bundle="f" * 64)
    with pytest.raises(CalibrationError, match="belongs to the bundle ffffffffffff"):
        history.append(other)
    assert not history.folder.parent.exists()
    twin = msgspec.structs.replace(bundle, id="e" * 64, calibration=variant(bundle, 5.0))
    history.append(variant(bundle, 1.0))
    assert History(history.folder.parent, twin).current().threshold == 5.0


def damage_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b'"threshold": ') + len(b'"threshold": ')
    data[at] = ord("7")  # still valid JSON: only the hash in the name gives it away
    path.write_bytes(bytes(data))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "text": lambda p: p.write_text("hello"),
    "another digit": damage_bits,
    "gone": lambda p: p.unlink(),
    "a folder": replace_by_folder,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_current_entry_is_an_error_that_undo_repairs(
    bundle: Bundle, history: History, how: str
) -> None:
    history.append(variant(bundle, 1.0))
    second = history.append(variant(bundle, 2.0)).path
    DAMAGE[how](second)
    with pytest.raises(CalibrationError, match=second.name):
        history.current()
    assert history.rollback().threshold == 1.0
    assert history.current().threshold == 1.0
    assert [e.problem is None for e in history.entries()] == ([True] if how == "gone" else [True, False])
    assert history.append(variant(bundle, 3.0)).number == (2 if how == "gone" else 3)


@pytest.mark.parametrize("how", DAMAGE)
def test_undo_passes_over_a_damaged_entry(bundle: Bundle, history: History, how: str) -> None:
    history.append(variant(bundle, 1.0))
    second = history.append(variant(bundle, 2.0)).path
    history.append(variant(bundle, 3.0))
    DAMAGE[how](second)
    assert history.rollback().threshold == 1.0
    assert history.current().threshold == 1.0
    assert history.rollback() == bundle.calibration
    with pytest.raises(CalibrationError, match="nothing to undo"):
        history.rollback()


def test_bytes_that_are_no_text_are_damage_too(bundle: Bundle, history: History) -> None:
    history.append(variant(bundle, 1.0))
    (history.folder / POINTER).write_bytes(b'{"bundle":"\xff"}')
    with pytest.raises(CalibrationError, match="damaged"):
        history.current()


def pointer_text(owner: Bundle, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "bundle": owner.id,
        "used": [],
        "format": "edge-ad calibration history",
        "format_version": 1,
    }
    return msgspec.json.encode({**fields, **changes}).decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged"),
        ("{}", "damaged"),
        ("null", "damaged"),
        ("version 2", "unknown format"),
        ("foreign", "belongs to the bundle"),
        ("outside", "not a calibration"),
        ("gone", "missing"),
    ],
)
def test_a_damaged_pointer_is_never_the_factory_calibration(
    bundle: Bundle, history: History, content: str, message: str
) -> None:
    history.append(variant(bundle, 1.0))
    texts = {
        "version 2": pointer_text(bundle, format_version=2),
        "foreign": pointer_text(bundle, bundle="f" * 64),
        "outside": pointer_text(bundle, used=["../../etc/passwd"]),
    }
    if content == "gone":
        (history.folder / POINTER).unlink()
    else:
        (history.folder / POINTER).write_text(texts.get(content, content))
    actions: list[Callable[[], object]] = [
        history.current,
        history.entries,
        history.rollback,
        lambda: history.append(variant(bundle, 2.0)),
    ]
    for action in actions:
        with pytest.raises(CalibrationError, match=message):
            action()


def test_other_files_are_ignored(bundle: Bundle, history: History) -> None:
    history.append(variant(bundle, 1.0))
    for name in ("notes.txt", "000009.json", "000009-0123456789abcdef.json~", ".000009-0.json.swp"):
        (history.folder / name).write_text("x")
    assert history.append(variant(bundle, 2.0)).number == 2
    assert len(history.entries()) == 2


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere; take its rights away for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_state_folder(bundle: Bundle) -> None:
    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / "state"
        Path(name).chmod(0o755)
        history = History(state, bundle)
        with unprivileged():
            assert history.current() == bundle.calibration
        Path(name).chmod(0o555)
        with unprivileged(), pytest.raises(CalibrationError, match=r"cannot be stored .* --state"):
            history.append(variant(bundle, 1.0))
        Path(name).chmod(0o755)
        history.append(variant(bundle, 1.0))
        history.folder.chmod(0o555)
        with unprivileged():
            assert history.current().threshold == 1.0
            assert len(history.entries()) == 1
            with pytest.raises(CalibrationError, match="cannot be stored"):
                history.rollback()
        assert history.current().threshold == 1.0
        history.folder.chmod(0o000)
        with unprivileged(), pytest.raises(CalibrationError, match="cannot be read"):
            history.current()
        history.folder.chmod(0o755)


def test_a_file_in_the_way(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("x")
    with pytest.raises(CalibrationError, match="cannot be read"):
        History(tmp_path / "state", bundle).current()


def test_default_state_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGE_AD_STATE", "/var/lib/edge")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert default_state_dir() == Path("/var/lib/edge")
    monkeypatch.delenv("EDGE_AD_STATE")
    assert default_state_dir() == Path("/xdg/edge-ad")
    for ignored in ("relative/path", ""):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert default_state_dir() == tmp_path / ".local" / "state" / "edge-ad"


def test_every_step_of_writing_may_fail(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let each system call in turn fail once; the history stays whole and the next attempt succeeds."""
    step, failing = 0, 0

    def failing_at(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal step
            step += 1
            if step == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return wrapped

    for owner, name in (
        (os, "fsync"),
        (os, "fchmod"),
        (tempfile, "mkstemp"),
        (Path, "replace"),
        (Path, "mkdir"),
    ):
        monkeypatch.setattr(owner, name, failing_at(getattr(owner, name)))
    outcomes = set()
    for first in (True, False):
        for number in range(1, 100):
            failing = 0
            history = History(tmp_path / f"{first}-{number}", bundle)
            if not first:
                history.append(variant(bundle, 1.0))
            old = history.current()
            step, failing = 0, number
            try:
                history.append(variant(bundle, 2.0))
            except CalibrationError as error:
                assert "No space left" in str(error)
            else:
                assert step < number  # it ended before the step that was to fail
                break
            finally:
                failing = 0
            after = history.current()
            assert after in (old, variant(bundle, 2.0))
            outcomes.add(after == old)
            assert all(e.problem is None for e in history.entries())
            assert not list(history.folder.glob(".*"))  # no temporary file stays
            history.append(variant(bundle, 3.0))
            assert history.current().threshold == 3.0
        else:
            pytest.fail("the steps never ended")
        assert number > 8
    assert outcomes == {True, False}  # the last sync fails after the new one is in place


APPENDER = """
import sys
from pathlib import Path
import msgspec
from edge_ad_calibration.history import History
from edge_ad_runtime.bundle import open_bundle
bundle = open_bundle(Path(sys.argv[1]))
history = History(Path(sys.argv[2]), bundle)
sys.stdin.read(1)
for i in range(int(sys.argv[4])):
    wanted = float(sys.argv[3]) * 1000 + i
    history.append(msgspec.structs.replace(bundle.calibration, threshold=wanted))
    assert history.current().bundle == bundle.id
"""


def test_several_processes_at_once(bundle: Bundle, history: History) -> None:
    writers, each = 3, 10
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, bundle.path, history.folder.parent, str(i + 1), str(each)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(writers)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    while any(p.poll() is None for p in processes):
        # A reader never sees anything unfinished.
        assert [e.problem for e in history.entries() if e.problem is not None] == []
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    entries = history.entries()
    assert [e.number for e in entries] == list(range(1, writers * each + 1))
    assert not any(e.undone for e in entries)
    wanted = {(w + 1) * 1000.0 + i for w in range(writers) for i in range(each)}
    assert {threshold_of(e) for e in entries} == wanted


def test_writing_waits_for_the_lock(bundle: Bundle, history: History) -> None:
    history.append(variant(bundle, 1.0))
    with (history.folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDER, bundle.path, history.folder.parent, "2", "1"],
            stdin=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        assert history.current().threshold == 1.0  # reading does not wait
    assert process.wait(20) == 0
    assert history.current().threshold == 2000.0
