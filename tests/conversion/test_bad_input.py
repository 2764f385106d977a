"""Bad input to a conversion, and damage to a bundle: a clear error, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import pytest

from edge_ad.cli import main
from edge_ad_runtime.bundle import FORMAT_VERSION, MANIFEST, Bundle, open_bundle, write_bundle
from edge_ad_runtime.calibration import encode_calibration
from edge_ad_runtime.errors import BundleError
from edge_ad_runtime.images import read_image
from tests.conftest import good_part
from tests.conversion.conftest import convert_words


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that ends with exit code 1."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert "Traceback" not in said
    return said


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """The folder of the bundle to be; nothing may be in it in the end, hidden files included."""
    folder = tmp_path / "device"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def write_image(path: Path, seed: int, height: int = 64, width: int = 64) -> None:
    assert cv2.imwrite(str(path), good_part(seed, height, width))


# The run


def test_a_run_without_quantiles(
    short_run: Path, few: Path, tmp_path: Path, device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(short_run, run)
    (run / "calibration.json").unlink()
    said = refused(["convert", *convert_words(run, device / "part.edgead", few)], capsys)
    assert f"{run}: the training has not finished; go on with 'edge-ad train" in said


@pytest.mark.parametrize("content", [b"", b"{", b'{"quantiles": {}}', b"\xff\xfe"])
def test_a_run_with_damaged_quantiles(
    short_run: Path,
    few: Path,
    tmp_path: Path,
    device: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(short_run, run)
    (run / "calibration.json").write_bytes(content)
    said = refused(["convert", *convert_words(run, device / "part.edgead", few)], capsys)
    assert str(run / "calibration.json") in said


# The images


def test_no_images(short_run: Path, images: Path, device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", *convert_words(short_run, device / "part.edgead", images)]
    assert f"{images}: holds no images (PNG" in refused(words, capsys)
    (images / "notes.txt").write_text("no image")
    assert f"{images}: holds no images (PNG" in refused(words, capsys)
    words = ["convert", *convert_words(short_run, device / "part.edgead", images / "gone")]
    assert "there is no such folder" in refused(words, capsys)


def test_images_of_another_size(
    short_run: Path, few: Path, images: Path, device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(few, images, dirs_exist_ok=True)
    write_image(images / "wide.png", 77, 48, 80)
    said = refused(["convert", *convert_words(short_run, device / "part.edgead", images)], capsys)
    assert "wide.png: is 80x48 pixels, but the run was trained on images of 64x64" in said
    assert "same camera and crop" in said


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("trained", [True, False])
def test_copies_of_one_image(
    short_run: Path,
    few: Path,
    images: Path,
    device: Path,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    trained: bool,
) -> None:
    for i in range(8):
        if trained:
            shutil.copy(next(few.iterdir()), images / f"{i}.png")
        else:
            write_image(images / f"{i}.png", 77)
    words = convert_words(short_run, device / "part.edgead", images, "--precision", precision)
    said = refused(["convert", *words], capsys)
    assert f"{images}: all 8 images show the same picture (0.png" in said and "different good parts" in said


def test_one_picture_encoded_anew(
    short_run: Path, images: Path, device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other bytes, the same pixels: by the files' hashes these would be six new images to fit on."""
    pixels = good_part(77, 64, 64)
    for level in range(1, 6):
        assert cv2.imwrite(str(images / f"{level}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, level])
    assert cv2.imwrite(str(images / "6.bmp"), pixels)
    assert len({p.read_bytes() for p in images.iterdir()}) >= 3
    said = refused(["convert", *convert_words(short_run, device / "part.edgead", images)], capsys)
    assert "all 6 images show the same picture" in said


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"no picture at all" * 9, id="text"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data[:40] + b"\0" * (len(data) - 40), id="zeros"),
    ],
)
def test_an_unreadable_image(
    short_run: Path,
    few: Path,
    images: Path,
    device: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[bytes], bytes],
) -> None:
    shutil.copytree(few, images, dirs_exist_ok=True)
    broken = images / "zz.png"
    broken.write_bytes(spoil(next(few.iterdir()).read_bytes()))
    said = refused(["convert", *convert_words(short_run, device / "part.edgead", images)], capsys)
    assert str(broken) in said


# The engine


@pytest.mark.parametrize(
    ("target", "modules", "extra"),
    [
        ("openvino", ["openvino"], "edge-ad[openvino]"),
        ("tflite", ["ai_edge_litert.interpreter", "tflite_runtime.interpreter"], "edge-ad[tflite]"),
    ],
)
def test_an_engine_that_is_not_installed(
    quick: None,
    short_run: Path,
    few: Path,
    device: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    modules: list[str],
    extra: str,
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    words = convert_words(short_run, device / "part.edgead", few, "--target", target)
    said = refused(["convert", *words], capsys)
    assert "which is not installed" in said and extra in said


_WITHOUT_ONNXRUNTIME = """
import sys
sys.modules["onnxruntime"] = None
from edge_ad.cli import main
main(["convert", *sys.argv[1:]])
"""


def test_without_onnxruntime_nothing_can_be_converted(short_run: Path, few: Path, device: Path) -> None:
    words = convert_words(short_run, device / "part.edgead", few)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_ONNXRUNTIME, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs the package 'onnxruntime', which is not installed" in done.stderr
    assert "edge-ad[host]" in done.stderr and "Traceback" not in done.stderr


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system of its own can only be mounted by root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_again(bundle: Bundle, out: Path) -> None:
    write_bundle(
        out, bundle.manifest, bundle.model, encode_calibration(bundle.calibration), bundle.golden,
        bundle.report, bundle.documents,
    )  # fmt: skip


def test_a_full_disk(converted: tuple[Path, str], tiny_bundle: Path, small_disk: Path) -> None:
    """The old bundle stays, and opens; where there was none, there is none."""
    bundle = open_bundle(converted[0])
    for out in (small_disk / "old.edgead", small_disk / "new.edgead"):
        if out.name == "old.edgead":
            shutil.copy(tiny_bundle, out)
        with pytest.raises(OSError, match="No space left") as error:
            write_again(bundle, out)
        assert error.value.errno == errno.ENOSPC
    assert [p.name for p in small_disk.iterdir()] == ["old.edgead"]
    assert open_bundle(small_disk / "old.edgead").id == open_bundle(tiny_bundle).id
    write_again(open_bundle(tiny_bundle), small_disk / "new.edgead")


def test_a_report_on_a_full_disk(
    converted: tuple[Path, str], small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (small_disk / "filling").open("wb") as file:
        file.write(b"x" * (1 << 20))
    said = refused(["report", str(converted[0]), "-o", str(small_disk / "r.html")], capsys)
    assert "No space left" in said
    assert [p.name for p in small_disk.iterdir()] == ["filling"]


@pytest.mark.study
def test_a_conversion_onto_a_full_disk(
    quick: None, short_run: Path, few: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = convert_words(short_run, small_disk / "part.edgead", few, "--precision", "fp32")
    assert "No space left" in refused(["convert", *words], capsys)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_may_not_grow(tiny_bundle: Path, device: Path, share: float) -> None:
    """The same without being root, by a limit that the kernel enforces."""
    limit = str(int(share * tiny_bundle.stat().st_size))
    done = subprocess.run(
        [sys.executable, "-m", "tests.conversion.disk", str(tiny_bundle), str(device / "new.edgead"), limit],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=device.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "refused: " in done.stderr and "File too large" in done.stderr


# The bundle


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, 0, None, "1"])
def test_a_bundle_of_another_version(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], version: object
) -> None:
    newer = tmp_path / "newer.edgead"
    with zipfile.ZipFile(tiny_bundle) as old, zipfile.ZipFile(newer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == MANIFEST:
                # A newer format may have fields that this version does not know.
                fields = json.loads(data) | {"format_version": version, "colour": "red"}
                data = json.dumps(fields).encode()
            new.writestr(name, data)
    for words in (["verify"], ["info"], ["report", "-o", str(tmp_path / "r.json")], ["bench"]):
        said = refused([*words, str(newer)], capsys)
        assert f"{newer}: bundle format {version} is not known here (this is {FORMAT_VERSION})" in said
    assert [p.name for p in tmp_path.iterdir()] == ["newer.edgead"]


# Of a zip's headers, the bytes that say nothing which is not said, and checked, elsewhere (offset in the header).
# Local header: versions, flags, method, date, CRC-32 and sizes, all repeated in the directory, which is what counts.
LOCAL_COPY = frozenset(range(4, 26))
# Directory: versions and flags of the writer, the date, the attributes and the disk's number are labels. A size
# that grew reads no further than the next header, and the CRC-32 and the SHA-256 of what is read still decide.
DIRECTORY_LABELS = frozenset((*range(4, 10), *range(12, 16), *range(20, 28), *range(34, 42)))
# Of the directory's last entry: a name, extra field and comment that are longer than the directory end with it.
LAST_LENGTHS = frozenset(range(28, 34))
# End: disk numbers, the counts of entries (read by the directory's size), the length of a comment that is not there.
END_LABELS = frozenset((*range(4, 12), 20, 21))


@pytest.fixture(scope="module")
def whole(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle that has every kind of file: the pages too."""
    bundle = open_bundle(tiny_bundle)
    documents = {"report.html": b"<p>figures</p>", "report.md": b"figures"}
    out = tmp_path_factory.mktemp("whole") / "whole.edgead"
    write_again(msgspec.structs.replace(bundle, documents=documents), out)
    return out


def headers(data: bytes, path: Path) -> tuple[set[int], set[int]]:
    """The positions of a zip's headers and names, and those among them that carry nothing of their own."""
    labels: set[int] = set()
    header: set[int] = set()
    with zipfile.ZipFile(path) as archive:
        at = archive.start_dir
        for entry in archive.infolist():
            start = entry.header_offset
            header.update(range(start, start + 30 + len(entry.filename)))
            labels.update(start + i for i in LOCAL_COPY)
            labels.update(at + i for i in DIRECTORY_LABELS)
            last, at = at, at + 46 + len(entry.filename)
        labels.update(last + i for i in LAST_LENGTHS)
        header.update(range(archive.start_dir, len(data)))
    assert data[at : at + 4] == b"PK\5\6" and at + 22 == len(data)
    labels.update(at + i for i in END_LABELS)
    return header, labels


def content(bundle: Bundle) -> tuple[object, ...]:
    """All that a bundle holds, to compare."""
    golden = [(g.image.tobytes(), g.map_st.tobytes(), g.map_ae.tobytes(), g.score) for g in bundle.golden]
    return (
        bundle.id, bundle.manifest, bundle.model, bundle.calibration, golden, bundle.report, bundle.documents,
    )  # fmt: skip


def test_one_changed_byte_anywhere(whole: Path, tmp_path: Path) -> None:
    """Every byte of the headers, two ways, and many of the files: refused, or a label, and nothing else changes."""
    data = whole.read_bytes()
    header, labels = headers(data, whole)
    original = content(open_bundle(whole))
    # 14 is another compression than "stored"; 0xFF makes lengths and offsets reach far out of the file.
    tried = [(i, mask) for i in sorted(header) for mask in (0xFF, 0x0E)]
    tried += [(i, 0x01 << i % 8) for i in range(0, len(data), 13) if i not in header]
    assert len(tried) > 1800
    changed = tmp_path / "changed.edgead"
    accepted = set()
    for position, mask in tried:
        copy = bytearray(data)
        copy[position] ^= mask
        changed.write_bytes(copy)
        try:
            opened = open_bundle(changed)
        except BundleError as error:
            assert str(changed) in str(error)
            continue
        assert content(opened) == original, f"byte {position} changed by {mask:#x}"
        accepted.add(position)
    assert accepted <= labels, sorted(accepted - labels)
    # The list is no wider than it must be by much.
    assert len(accepted) > 0.8 * len(labels)


def test_one_changed_byte_in_the_folder_form(whole: Path, tmp_path: Path) -> None:
    """Every file but the manifest is known by its hash; the manifest gives the bundle its id."""
    folder = tmp_path / "folder"
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(folder)
    before = open_bundle(folder)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for position in range(0, len(data), max(1, len(data) // 20)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            if path.name == MANIFEST:
                try:
                    assert open_bundle(folder).id != before.id
                except BundleError:
                    continue
            else:
                with pytest.raises(BundleError, match="has changed since the bundle was written"):
                    open_bundle(folder)
        path.write_bytes(data)
    assert content(open_bundle(folder)) == content(before)


@pytest.mark.parametrize("verb", ["verify", "info", "bench", "report"])
def test_the_commands_refuse_a_changed_bundle(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    data = bytearray(whole.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        entry = archive.getinfo("model.onnx")
    data[entry.header_offset + 30 + len(entry.filename) + 20] ^= 1
    changed = tmp_path / "changed.edgead"
    changed.write_bytes(data)
    more = ["-o", str(tmp_path / "r.md")] if verb == "report" else []
    assert str(changed) in refused([verb, str(changed), *more], capsys)
    assert [p.name for p in tmp_path.iterdir()] == [changed.name]


def test_a_changed_compression_is_no_crash(whole: Path, tmp_path: Path) -> None:
    """Each method that zip knows, written where a stored file is announced."""
    data = whole.read_bytes()
    with zipfile.ZipFile(whole) as archive:
        start = archive.start_dir
    changed = tmp_path / "changed.edgead"
    for method in (*range(1, 21), 93, 95, 98, 0xFFFF):
        changed.write_bytes(data[: start + 10] + struct.pack("<H", method) + data[start + 12 :])
        with pytest.raises(BundleError, match="not a readable bundle"):
            open_bundle(changed)


def test_the_reader_of_images_agrees(images: Path) -> None:
    """What the other tests write is what they mean: the same pixels in other files."""
    pixels = good_part(1, 64, 64)
    for name in ("a.png", "b.bmp"):
        assert cv2.imwrite(str(images / name), pixels)
    assert (read_image(images / "a.png") == read_image(images / "b.bmp")).all()
