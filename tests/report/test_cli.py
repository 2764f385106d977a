"""``edge-ad report`` takes out of a bundle what is in it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_ad.cli.report import command
from edge_ad.report.html import render_html
from edge_ad.report.markdown import render_markdown
from edge_ad_runtime.bundle import MANIFEST, open_bundle
from edge_ad_runtime.errors import EdgeAdError
from tests.report.records import noise_pictures, report


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(command, [str(w) for w in words])


@pytest.fixture(scope="module")
def documented(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as a folder, with the two pages in it and in its manifest."""
    folder = tmp_path_factory.mktemp("documented") / "tiny.edgead"
    with zipfile.ZipFile(tiny_bundle) as archive:
        archive.extractall(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    pages = {"report.html": render_html(report(), noise_pictures()), "report.md": render_markdown(report())}
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("name", "source"), [("a.html", "report.html"), ("A.HTM", "report.html"), ("a.md", "report.md")]
)
def test_the_pages_come_out_as_they_went_in(documented: Path, tmp_path: Path, name: str, source: str) -> None:
    done = _run(documented, "-o", tmp_path / name)
    assert done.exit_code == 0, done.output
    assert (tmp_path / name).read_bytes() == (documented / source).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_json_is_the_record(tiny_bundle: Path, tmp_path: Path) -> None:
    assert _run(tiny_bundle, "-o", tmp_path / "r.json").exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text()) == open_bundle(tiny_bundle).report


def test_an_older_bundle_says_what_it_lacks(tiny_bundle: Path, tmp_path: Path) -> None:
    done = _run(tiny_bundle, "-o", tmp_path / "r.html")
    assert isinstance(done.exception, EdgeAdError)
    assert "holds no report.html" in str(done.exception) and "convert the run again" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["report", "report.pdf"])
def test_the_suffix_chooses(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    done = _run(tiny_bundle, "-o", tmp_path / name)
    assert done.exit_code == 2 and ".html, .md and .json" in done.output
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for out, message in (("gone/r.json", "no such folder"), ("folder.json", "is a folder")):
        done = _run(tiny_bundle, "-o", tmp_path / out)
        assert isinstance(done.exception, EdgeAdError) and message in str(done.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.json"]
