"""Downloads over a real connection: resumed, cut, refused, wrong."""

from __future__ import annotations

import fcntl
import hashlib
import socket
from pathlib import Path

import numpy as np
import pytest

from edge_ad.teacher_store.download import DownloadError, DownloadStopped, Patience, download
from edge_ad_runtime.stopping import StopRequest
from tests.importing.server import Behaviour, serve

CONTENT = np.random.default_rng(0).bytes(1_500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(tries=3, pause=0.01, timeout=5)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def get(url: str, target: Path, sha256: str = SHA256, patience: Patience = QUICK) -> None:
    download(url, target, sha256, StopRequest(), patience, progress=False)


def nothing_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def test_a_file_arrives_whole(tmp_path: Path) -> None:
    server = Behaviour(CONTENT)
    with serve(server) as url:
        get(f"{url}/file.zip", tmp_path / "new" / "file.zip")
    assert (tmp_path / "new" / "file.zip").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file.zip"]
    assert server.asked == [None]


def test_a_cut_connection_is_resumed(tmp_path: Path) -> None:
    server = Behaviour(CONTENT, cuts=[400_000, 300_000])
    with serve(server) as url:
        get(f"{url}/file.zip", tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=400000-", "bytes=700000-"]


def test_a_later_call_goes_on_where_one_gave_up(tmp_path: Path) -> None:
    target = tmp_path / "file.zip"
    server = Behaviour(CONTENT, cuts=[500_000, 0, 0, 0])
    with serve(server) as url:
        with pytest.raises(DownloadError, match="cut after 500000 of 1500000"):
            get(f"{url}/file.zip", target)
        assert not target.exists() and (tmp_path / "file.zip.part").stat().st_size == 500_000
        server.cuts.clear()
        server.asked.clear()
        get(f"{url}/file.zip", target)
    assert target.read_bytes() == CONTENT and server.asked == ["bytes=500000-"]


def test_progress_renews_the_patience(tmp_path: Path) -> None:
    server = Behaviour(CONTENT, cuts=[100_000] * 8)
    with serve(server) as url:
        get(f"{url}/file.zip", tmp_path / "file.zip")
    assert len(server.asked) == 9


def test_a_server_without_ranges_starts_over(tmp_path: Path) -> None:
    server = Behaviour(CONTENT, ranges=False, cuts=[400_000])
    with serve(server) as url:
        get(f"{url}/file.zip", tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=400000-"]


def test_a_server_that_does_not_say_the_length(tmp_path: Path) -> None:
    server = Behaviour(CONTENT, length=False)
    with serve(server) as url:
        get(f"{url}/file.zip", tmp_path / "file.zip")
        server.cuts = [1000]
        with pytest.raises(DownloadError, match="SHA-256"):
            get(f"{url}/file.zip", tmp_path / "other.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["file.zip"]


def test_a_whole_part_needs_no_more_bytes(tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    with serve(Behaviour(CONTENT)) as url:
        get(f"{url}/file.zip", tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"of another file" * 1000, CONTENT + b"and more"])
def test_a_part_of_another_file_is_dropped(part: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(part)
    with serve(Behaviour(CONTENT)) as url:
        get(f"{url}/file.zip", tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(tmp_path: Path) -> None:
    server = Behaviour(CONTENT)
    with serve(server) as url, pytest.raises(DownloadError, match=f"SHA-256 {SHA256}, expected 00"):
        get(f"{url}/file.zip", tmp_path / "file.zip", "00" * 32)
    assert nothing_left(tmp_path) and len(server.asked) == 1


def test_an_overloaded_server_is_asked_again(tmp_path: Path) -> None:
    server = Behaviour(CONTENT, errors=[503, 429])
    with serve(server) as url:
        get(f"{url}/file.zip", tmp_path / "file.zip")
    assert len(server.asked) == 3


def test_a_missing_file_is_asked_for_once(tmp_path: Path) -> None:
    server = Behaviour(CONTENT)
    with serve(server) as url, pytest.raises(DownloadError, match="404"):
        get(f"{url}/missing", tmp_path / "file.zip")
    assert len(server.asked) == 1 and not (tmp_path / "file.zip").exists()


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="refused"):
        get(f"http://127.0.0.1:{port}/file.zip", tmp_path / "file.zip")


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.zip"
        with pytest.raises(DownloadError, match="timed out"):
            get(url, tmp_path / "file.zip", patience=Patience(tries=2, pause=0.01, timeout=0.2))


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    for length in (True, False):
        with serve(Behaviour(CONTENT, length=length)) as url, pytest.raises(DownloadError, match="at most"):
            get(f"{url}/file.zip", tmp_path / "file.zip", patience=Patience(max_bytes=1_000_000))
    assert not (tmp_path / "file.zip").exists()


def test_stopping_keeps_what_has_come(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.request()
    with serve(Behaviour(CONTENT)) as url:
        with pytest.raises(DownloadStopped, match="goes on from here"):
            download(f"{url}/file.zip", tmp_path / "file.zip", SHA256, stop, QUICK, progress=False)
        assert (tmp_path / "file.zip.part").stat().st_size > 0
        get(f"{url}/file.zip", tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    with (tmp_path / "file.zip.part").open("ab") as other, serve(Behaviour(CONTENT)) as url:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process"):
            get(f"{url}/file.zip", tmp_path / "file.zip")


def test_only_http(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not an http"):
        get((tmp_path / "x").as_uri(), tmp_path / "file.zip")
