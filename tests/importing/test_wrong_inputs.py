"""Files that are damaged, of another model, or hostile: a clear error, nothing run, nothing half-written."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_ad.importing.archive import open_torch_file
from edge_ad.importing.job import ImportOptions, import_model
from edge_ad.importing.pickled import Global, Record, read_pickle
from edge_ad_runtime.errors import InputError
from tests.importing import originals


class RunsOnLoad:
    """Unpickling this creates a folder."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def refused(source: Path, out: Path, words: str) -> None:
    """The import fails with these words and leaves nothing."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError, match=words):
        import_model(source, out, ImportOptions(images=source.parent))
    assert sorted(out.parent.iterdir()) == before


def save(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def test_the_hostile_file_of_these_tests_would_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.load(save({"x": RunsOnLoad(mark)}, tmp_path / "evil.pth"), weights_only=False)
    assert mark.is_dir()


@pytest.mark.parametrize("where", ["root", "state_dict", "weight", "key", "module"])
def test_a_hostile_zip_does_not_run(where: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = RunsOnLoad(mark)
    state: dict[Any, Any] = dict(originals.anomalib_state())
    root: Any = {"state_dict": state, "hyper_parameters": {}}
    if where == "root":
        root = evil
    elif where == "state_dict":
        root["state_dict"] = evil
    elif where == "weight":
        state["model.teacher.conv1.weight"] = evil
    elif where == "key":
        state[evil] = torch.zeros(1)
        del state["model.teacher.conv1.weight"]
    else:
        folder = originals.write_nelson(tmp_path / "nets")
        net = originals.pdn("s", originals.CHANNELS, False)
        net.extra = evil  # type: ignore[assignment]
        net[1] = torch.nn.Identity()
        save(net, folder / "teacher_final.pth")
        refused(folder, tmp_path / "run", "Identity, which EfficientAD does not have")
        assert not mark.exists()
        return
    refused(save(root, tmp_path / "evil.ckpt"), tmp_path / "run", "evil.ckpt: is no|is not")
    assert not mark.exists()


def test_a_hostile_part_that_is_not_needed_is_left_alone(tmp_path: Path) -> None:
    from edge_ad.importing.anomalib import read_checkpoint

    mark = tmp_path / "ran"
    path = originals.write_anomalib(
        tmp_path / "model.ckpt", originals.anomalib_state(), False, callbacks={"mine": RunsOnLoad(mark)}
    )
    with open_torch_file(path, path.name) as file:
        assert file.root["callbacks"]["mine"].of == Global("posix", "mkdir")
        assert read_checkpoint(file).padded is False
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_pickle_is_refused_and_does_not_run(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(RunsOnLoad(mark), protocol))
    refused(tmp_path / "evil.pth", tmp_path / "run", "was not written by torch.save")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read_as_data(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    value = {
        "a": [1, -2, 3.5, None, True, "ü", b"\x00\xff"],
        "b": (1, 2, (3, 4, 5, 6)),
        7: 1 << 80,
        "evil": RunsOnLoad(mark),
    }
    read = read_pickle(pickle.dumps(value, protocol), {}, lambda _: None, "file")
    evil = read.pop("evil")
    assert isinstance(evil, Record) and evil.of.name == "mkdir" and evil.args == (str(mark),)
    del value["evil"]
    if protocol < 3:  # bytes are written as a call there
        read["a"][-1] = value["a"][-1]  # type: ignore[index]
    assert read == value and not mark.exists()


def test_damaged_pickles_end_in_the_known_error() -> None:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(3)}, "b": [(1, 2.5), Path("x")]}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    rng, failed = np.random.default_rng(0), 0
    for _ in range(3000):
        changed = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        try:
            read_pickle(bytes(changed), {}, lambda _: None, "file")
        except InputError:
            failed += 1
    assert failed > 1000


def test_damaged_archives_end_in_the_known_error(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(128, 3, 4, 4), "epoch": 1}, tmp_path / "whole.pth")
    data, rng = (tmp_path / "whole.pth").read_bytes(), np.random.default_rng(0)
    path = tmp_path / "part.pth"
    for i in range(400):
        changed = bytearray(data)
        if i % 2:
            del changed[rng.integers(len(changed)) :]
        else:
            # The structure lies at both ends; the middle is weights, which the archive's checksum guards.
            for place in rng.integers(1200, size=3):
                changed[place if rng.random() < 0.5 else -1 - place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        with pytest.raises(InputError):
            import_model(path, tmp_path / "out.safetensors", ImportOptions())
    assert not (tmp_path / "out.safetensors").exists()


def test_another_models_checkpoint(tmp_path: Path) -> None:
    state = {
        "model.memory_bank": torch.zeros(10, 4),
        "model.feature_extractor.conv1.weight": torch.zeros(64, 3, 7, 7),
    }
    refused(
        save({"state_dict": state}, tmp_path / "p.ckpt"), tmp_path / "run", "memory_bank|is not a checkpoint"
    )


def test_more_weights_than_the_model_has(tmp_path: Path) -> None:
    state = originals.anomalib_state() | {"model.head.weight": torch.zeros(3)}
    refused(
        save({"state_dict": state}, tmp_path / "p.ckpt"), tmp_path / "run", r"does not have \(head.weight\)"
    )


def test_an_exported_model_is_not_a_checkpoint(tmp_path: Path) -> None:
    refused(
        save({"model": torch.nn.Linear(2, 2)}, tmp_path / "m.pt"), tmp_path / "run", "no EfficientAD model"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["model.student.conv2.bias", "model.mean_std.mean"])
def test_weights_that_are_not_finite(value: float, key: str, tmp_path: Path) -> None:
    state = originals.anomalib_state()
    state[key].view(-1)[3] = value
    refused(save({"state_dict": state}, tmp_path / "p.ckpt"), tmp_path / "run", "not finite")


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("model.teacher.conv1.weight", (100, 3, 4, 4), "not those of a size s or m"),
        ("model.student.conv4.weight", (originals.CHANNELS, 256, 4, 4), "has the shape"),
        ("model.ae.decoder.deconv8.weight", (originals.CHANNELS + 1, 64, 3, 3), "has the shape"),
        ("model.teacher.conv2.bias", (1,), "has the shape"),
        ("model.mean_std.std", (1, 384, 1, 1), "has the shape"),
    ],
)
def test_other_shapes(key: str, shape: tuple[int, ...], words: str, tmp_path: Path) -> None:
    state = originals.anomalib_state() | {key: torch.zeros(shape)}
    refused(save({"state_dict": state}, tmp_path / "p.ckpt"), tmp_path / "run", words)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    state = originals.anomalib_state()
    del state["model.ae.encoder.enconv3.bias"]
    refused(
        save({"state_dict": state}, tmp_path / "p.ckpt"),
        tmp_path / "run",
        r"ae\.encoder\.enconv3\.bias is missing",
    )


def test_a_checkpoint_from_before_the_training(tmp_path: Path) -> None:
    state = originals.anomalib_state()
    state["model.mean_std.std"] = torch.zeros(1, originals.CHANNELS, 1, 1)
    refused(save({"state_dict": state}, tmp_path / "p.ckpt"), tmp_path / "run", "saved before the training")


def test_folders_without_all_three_nets(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(
        tmp_path / "empty",
        tmp_path / "run",
        "teacher_final.pth, student_final.pth, autoencoder_final.pth is missing",
    )
    folder = originals.write_nelson(tmp_path / "two")
    (folder / "student_final.pth").unlink()
    refused(folder, tmp_path / "run", "two: student_final.pth is missing")
    refused(folder / "teacher_final.pth", tmp_path / "run", "give the folder")


def test_nets_under_each_others_names(tmp_path: Path) -> None:
    folder = originals.write_nelson(tmp_path / "nets")
    (folder / "student_final.pth").replace(folder / "s")
    (folder / "teacher_final.pth").replace(folder / "student_final.pth")
    (folder / "s").replace(folder / "teacher_final.pth")
    refused(folder, tmp_path / "run", "has the shape")


def test_the_old_format_empty_and_other_files(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pth", tmp_path / "out.safetensors", "before 1.6")
    (tmp_path / "empty.pth").touch()
    refused(tmp_path / "empty.pth", tmp_path / "out.safetensors", "empty")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b.txt", "text")
    refused(tmp_path / "other.zip", tmp_path / "out.safetensors", "not one of torch.save")
    refused(tmp_path / "none.pth", tmp_path / "out.safetensors", "no such file")


def rewritten(path: Path, entry: str, data: bytes, compress: int = zipfile.ZIP_STORED) -> Path:
    """A copy of an archive with one entry changed."""
    out = path.with_name("changed.ckpt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            changed = name.endswith(entry)
            target.writestr(name, data if changed else source.read(name), compress if changed else None)
    return out


def test_storages_that_are_said_to_be_larger_than_they_are(tmp_path: Path) -> None:
    path = originals.write_anomalib(tmp_path / "model.ckpt", originals.anomalib_state())
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("model/data.pkl")
    small, huge = (b"K" + bytes([8])), b"J" + struct.pack("<i", 1 << 30)
    # A bias of 8 numbers becomes one of 2^30, in the storage's count and in the tensor's shape.
    at = pickled.index(b"model.teacher.conv4.bias")
    changed = pickled[:at] + pickled[at:].replace(small, huge, 2)
    assert changed != pickled
    refused(
        rewritten(path, "data.pkl", changed), tmp_path / "run", "larger than|has the shape|numbers and has"
    )


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = originals.write_anomalib(tmp_path / "model.ckpt", originals.anomalib_state())
    bomb = rewritten(path, "data/0", bytes(64 << 20), zipfile.ZIP_DEFLATED)
    refused(bomb, tmp_path / "run", "compressed")


def test_an_entry_that_is_said_to_be_larger_than_the_file(tmp_path: Path) -> None:
    path = originals.write_anomalib(tmp_path / "model.ckpt", originals.anomalib_state())
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    at = data.index(b"PK\x01\x02", start)  # the first entry of the directory: data.pkl
    data[at + 20 : at + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    (tmp_path / "changed.ckpt").write_bytes(data)
    refused(tmp_path / "changed.ckpt", tmp_path / "run", "larger than the file has room for|damaged")


def test_a_pickle_of_endless_nesting_is_no_crash() -> None:
    deep = b"\x80\x02" + b")" + b"\x85" * 100_000 + b"."
    assert isinstance(read_pickle(deep, {}, lambda _: None, "file"), tuple)
    as_key = b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns."
    with pytest.raises(InputError, match="used as a key"):
        read_pickle(as_key, {}, lambda _: None, "file")


def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    path = originals.write_anomalib(tmp_path / "model.ckpt", originals.anomalib_state())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    refused(path, tmp_path / "run", "is there already")
    teacher = save(
        {
            k.removeprefix("model.teacher."): v
            for k, v in originals.anomalib_state().items()
            if "teacher" in k
        },
        tmp_path / "t.pth",
    )
    (tmp_path / "out.safetensors").touch()
    refused(teacher, tmp_path / "out.safetensors", "is there already")
    refused(teacher, tmp_path / "folder", "ends with .safetensors")
