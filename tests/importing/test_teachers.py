"""Teacher weights of others, and teachers by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edge_ad.cli import main
from edge_ad.importing.job import ImportOptions, import_model
from edge_ad.nets.architecture import architecture
from edge_ad.nets.pdn import Pdn
from edge_ad.teacher import find_teacher, load_teacher, save_teacher
from edge_ad.teacher_store import catalogue
from edge_ad.teacher_store.catalogue import Archive, Published
from edge_ad.teacher_store.download import DownloadError, Patience
from edge_ad.teacher_store.fetch import fetch
from edge_ad.teacher_store.folders import State, cached_teacher, check, stored_teachers
from edge_ad_runtime.errors import InputError, RunError
from edge_ad_runtime.stopping import StopRequest
from tests.importing import originals
from tests.importing.server import Behaviour, serve

QUICK = Patience(tries=2, pause=0.01, timeout=5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_AD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def teacher_state(size: str) -> dict[str, Tensor]:
    """A teacher's state dict as anomalib publishes it."""
    state = originals.anomalib_state(size)
    return {k.removeprefix("model.teacher."): v for k, v in state.items() if k.startswith("model.teacher.")}


def run_cli(*args: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    return int(end.value.code or 0)


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Published, Published]:
    """A release like anomalib's: a zip with two teachers; one entry of the catalogue is right, one is not."""
    folder = "efficientad_pretrained_weights"
    path = tmp_path / "release" / f"{folder}.zip"
    path.parent.mkdir()
    torch.save(teacher_state("s"), tmp_path / "small.pth")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "small.pth", f"{folder}/pretrained_teacher_small.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    where = Archive(f"http://127.0.0.1:9/{path.name}", digest, "the tests", "none")
    small = Published("other-s", "s", where, f"{folder}/pretrained_teacher_small.pth")
    return path, small, dataclasses.replace(small, name="other-m", size="m")


@pytest.mark.parametrize("size", ["s", "m"])
def test_anomalibs_teacher_gives_the_original_descriptors(size: str, tmp_path: Path) -> None:
    state = teacher_state(size)
    torch.save(state, tmp_path / "pretrained_teacher.pth")
    result = import_model(tmp_path / "pretrained_teacher.pth", tmp_path / "t.safetensors", ImportOptions())
    net, found, provenance = load_teacher(result.path)
    assert found == size and net.out_channels == originals.CHANNELS
    assert provenance["imported"] == "anomalib teacher" and provenance["file"] == "pretrained_teacher.pth"
    image = torch.randn(1, 3, 48, 48)
    theirs = originals.anomalib_pdn(
        {f"model.teacher.{k}": v for k, v in state.items()}, "teacher", image, False
    )
    assert torch.allclose(net(image), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", ["s", "m"])
def test_nelsons_teacher_gives_the_original_descriptors(size: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = originals.pdn(size, 384, False)
    torch.save(original.state_dict(), tmp_path / "teacher_small.pth")
    assert "3.weight" in original.state_dict()
    import_model(tmp_path / "teacher_small.pth", tmp_path / "t.safetensors", ImportOptions())
    net, found, _ = load_teacher(tmp_path / "t.safetensors")
    image = torch.randn(1, 3, 48, 48)
    assert found == size and torch.allclose(net(image), original(image), rtol=1e-4, atol=1e-6)


def test_a_teacher_with_other_weights_is_refused(tmp_path: Path) -> None:
    for more in ({"fc.weight": torch.zeros(1)}, {"conv3.weight": torch.zeros(64, 256, 3, 3)}):
        torch.save(teacher_state("s") | more, tmp_path / "t.pth")
        with pytest.raises(InputError, match=r"does not have|has the shape"):
            import_model(tmp_path / "t.pth", tmp_path / "t.safetensors", ImportOptions())
    assert not (tmp_path / "t.safetensors").exists()


def test_a_published_teacher_is_fetched_verified_and_used_by_name(
    published: tuple[Path, Published, Published], cache: Path
) -> None:
    path, small, medium = published
    server = Behaviour(path.read_bytes(), cuts=[100_000])
    with serve(server) as url:
        out = fetch(small, StopRequest(), mirror=f"{url}/release/", patience=QUICK, progress=False)
        assert out == cached_teacher("other-s") and check(out) is State.VERIFIED
        asked = len(server.asked)
        assert asked == 2
        fetch(small, StopRequest(), mirror=url, patience=QUICK, progress=False)
        with pytest.raises(RunError, match="is of size 's', not 'm'"):
            fetch(medium, StopRequest(), mirror=url, patience=QUICK, progress=False)
        assert len(server.asked) == asked
    assert not cached_teacher("other-m").exists()
    found, name, digest = find_teacher("s", Path("other-s"))
    assert found == out and name == "cache other-s.safetensors"
    assert digest == hashlib.sha256(out.read_bytes()).hexdigest()
    assert load_teacher(found)[2]["licence"] == "none"


def test_an_archive_at_hand_is_checked(published: tuple[Path, Published, Published], tmp_path: Path) -> None:
    path, small, _ = published
    changed = tmp_path / "changed.zip"
    changed.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="another file"):
        fetch(small, StopRequest(), given=str(changed))
    with pytest.raises(InputError, match="no such file"):
        fetch(small, StopRequest(), given=str(tmp_path / "none.zip"))
    assert not cached_teacher("other-s").exists()
    assert check(fetch(small, StopRequest(), given=str(path))) is State.VERIFIED


def test_a_damaged_teacher_is_noticed_and_fetched_anew(published: tuple[Path, Published, Published]) -> None:
    path, small, _ = published
    out = fetch(small, StopRequest(), given=str(path))
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    with pytest.raises(RunError, match="differs from its checksum"):
        find_teacher("s", Path("other-s"))
    assert run_cli("teachers", "verify") == 1
    assert check(fetch(small, StopRequest(), given=str(path))) is State.VERIFIED


def test_no_network_says_what_to_do(published: tuple[Path, Published, Published]) -> None:
    with pytest.raises(DownloadError, match="give it with --from"):
        fetch(published[1], StopRequest(), patience=QUICK, progress=False)


def test_fetching_needs_consent(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert run_cli("teachers", "fetch", "anomalib-s") == 1
    said = capsys.readouterr().err
    assert "licence: not stated" in said and "--yes" in said
    assert not cache.exists()


def test_the_real_entry_refuses_another_file(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Behaviour(b"not the release")
    with serve(server) as url:
        assert run_cli("teachers", "fetch", "anomalib-m", "--yes", "--mirror", url) == 1
    assert f"expected {catalogue.ANOMALIB.sha256}" in capsys.readouterr().err
    assert len(server.asked) == 1 and not any(p.is_file() for p in cache.rglob("*"))


def test_fetch_by_command(
    published: tuple[Path, Published, Published],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, small, _ = published
    monkeypatch.setitem(catalogue.PUBLISHED, "anomalib-s", dataclasses.replace(small, name="anomalib-s"))
    assert run_cli("teachers", "fetch", "anomalib-s", "--yes", "--from", str(path)) == 0
    assert "--teacher anomalib-s" in capsys.readouterr().out
    assert run_cli("teachers", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["anomalib-s"]["state"] == "verified" and rows["anomalib-s"]["place"] == "cache"
    assert rows["anomalib-s"]["bytes"] == cached_teacher("anomalib-s").stat().st_size
    assert rows["anomalib-m"]["state"] == "not fetched" and rows["n"]["state"] == "verified"


def test_the_shipped_teacher_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("teachers", "verify", "n") == 0
    assert capsys.readouterr().out.startswith("n: verified")
    assert run_cli("teachers", "verify", "none") == 1
    assert find_teacher("n", None)[1] == "shipped n.safetensors"
    assert stored_teachers()["n"].place == "shipped"


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="teachers fetch anomalib-s"):
        find_teacher("s", Path("anomalib-s"))
    with pytest.raises(RunError, match="lists none of that name"):
        find_teacher("s", Path("mine"))
    with pytest.raises(RunError, match=r"there is no such teacher file$"):
        find_teacher("s", tmp_path / "none.safetensors")


def test_a_teacher_put_into_the_cache_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    path = cached_teacher("mine")
    path.parent.mkdir(parents=True)
    save_teacher(path, Pdn(architecture("s").pdn.layers(4)), "s", {})
    assert find_teacher("s", Path("mine"))[0] == path
    assert run_cli("teachers") == 0
    assert "no checksum" in capsys.readouterr().out
