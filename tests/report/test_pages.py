"""The pages are whole, harmless, small, and show the record's numbers."""

from __future__ import annotations

import base64
import math
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_ad.report.html import render_html
from edge_ad.report.markdown import render_markdown
from edge_ad.report.model import Limits, Report, image_name
from edge_ad.report.text import shown_name
from edge_ad_runtime.images import decode_image
from edge_ad_runtime.verdict import Verdict
from tests.report.page import Page, markdown_tables
from tests.report.records import (
    COMPRESSION,
    FLOAT_THRESHOLD,
    KINDS,
    candidate,
    image,
    noise_pictures,
    report,
    side,
    some_images,
    unlabelled_report,
)

HOSTILE = [
    "<script>alert(1)</script>.png",
    '" onerror="alert(1).png',
    "it's & <b>bold</b> | a|b \\| .png",
    "Prüfling_größe_ÄÖ.png",
    "one\nline\r\n# two\t.png",
    "turned \u202egnp.exe",
    "`code` *star* [link](http://example.org) ![x](y) ~~no~~ $a$.png",
    "x" * 300 + ".png",
    "</td></tr></table>",
    image_name(Path(os.fsdecode(b"\xff\xfe.png"))),
]
BROKEN = ("image AUROC drops by 0.0105", "map correlation 0.9 on good images is below 0.995")


def _flipped_everywhere() -> Report:
    return report([image(f"{n}.png", "good" if n % 2 else "dent", 0.2, 0.9 + n / 50) for n in range(14)])


def _broken_maps() -> Report:
    images = [*some_images(), image("flat.png", "good", 0.1, 0.1, map_correlation=math.nan)]
    images.append(
        image("fault.png", "dent", 0.5, math.nan, map_correlation=None, target_verdict=Verdict.FAULT)
    )
    return report(images)


def _limits(forced: bool) -> Limits:
    return Limits(max_drop=0.002, min_map_correlation=0.995, passed=False, broken=BROKEN, forced=forced)


RECORDS = {
    "labelled": report(),
    "unlabelled": unlabelled_report(),
    "one image": report([image("only.png", "good", 0.1, 0.1)], score_correlation=math.nan),
    "all flipped": _flipped_everywhere(),
    "maps without correlation": _broken_maps(),
    "no correlation at all": report([image("a.png", None, 0.1, 0.1, map_correlation=math.nan)]),
    "fp32": report(quantization=None, sensitivity=(), precisions=()),
    "forced": report(limits=_limits(True), warnings=("Few images.",), stand_in="onnxruntime computed it."),
    "thresholds by hand": report(
        [image("a.png", "good", -3, -2.9), image("b.png", "dent", 4, -2.5)],
        float_=side(-1.0, "ort", "fp32"),
        target=side(0.0, "ort", "int8"),
        flipped_verdicts=("b.png",),
    ),
    "compressed": report(compression=COMPRESSION, kinds=KINDS, lost=0.0021),
    "compressed without labels": report(
        [image(f"fit {n}", "good", 0.1 + 0.01 * n, 0.101 + 0.01 * n) for n in range(6)],
        compression=msgspec.structs.replace(
            COMPRESSION,
            uncompressed=candidate("uncompressed", 1.0, None, chosen=True),
            candidates=(candidate("widths 50%", 0.3, None, good_map_correlation=0.9, broken=("lost <b>",)),),
        ),
    ),
    "another score": report(score_rule="mean"),
    "hostile": report(
        [image(name, name, 0.2 + n % 2, 0.25, map_correlation=1 - n / 9) for n, name in enumerate(HOSTILE)],
        name="<script>x</script>",
        warnings=tuple(HOSTILE),
        provenance=dict.fromkeys(HOSTILE, "<img src=http://example.org/a.png>"),
        stand_in=HOSTILE[0],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    """Each record's page; parsing it already says that its tags are balanced."""
    return {name: Page(render_html(record, noise_pictures())) for name, record in RECORDS.items()}


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_needs_nothing_from_outside(pages: dict[str, Page], name: str) -> None:
    page = pages[name]
    assert {"script", "link", "iframe", "object", "form", "a", "base", "svg"}.isdisjoint(page.tags)
    assert page.tags.count("h1") == page.tags.count("style") == 1
    for tag, attribute, value in page.attributes:
        assert not attribute.startswith("on") and attribute not in ("href", "srcset", "style"), (
            tag,
            attribute,
        )
        if attribute == "src":
            head, _, data = value.partition(";base64,")
            assert tag == "img" and head in ("data:image/png", "data:image/jpeg")
            assert decode_image(base64.b64decode(data, validate=True)).std() > 2


@pytest.mark.parametrize("name", RECORDS)
def test_the_numbers_are_the_record_s(pages: dict[str, Page], name: str) -> None:
    page, record = pages[name], RECORDS[name]
    a, b = record.float_, record.target
    for head, x, y in (
        ("Image AUROC", a.image_auroc, b.image_auroc),
        ("AUPRO", a.aupro, b.aupro),
        ("Pixel AUROC", a.pixel_auroc, b.pixel_auroc),
        ("Best F1", a.image_f1, b.image_f1),
        ("Threshold", a.calibrated_threshold, b.calibrated_threshold),
    ):
        change = None if x is None or y is None else y - x
        assert [_value(cell) for cell in page.row(head)[:3]] == pytest.approx([x, y, change], abs=5.1e-5)
    of = {True: 0, False: 0}
    for one in record.images:
        if one.kind is not None:
            of[one.kind == "good"] += 1
    for head, x, y, total in (
        ("False rejects", a.false_rejects, b.false_rejects, of[True]),
        ("Escapes", a.escapes, b.escapes, of[False]),
    ):
        wanted = (
            ["-"] * 3 if x is None or y is None else [f"{x} of {total}", f"{y} of {total}", f"{y - x:+d}"]
        )
        assert page.row(head)[:3] == wanted
    assert _value(page.row("Score correlation")[0]) == pytest.approx(
        _known(record.score_correlation), abs=5.1e-5
    )
    assert page.row("Flipped verdicts")[0] == f"{len(record.flipped_verdicts)} of {len(record.images)}"
    known = [c for i in record.images if (c := _known(i.map_correlation)) is not None]
    images, smallest, _, median = page.row("all images")
    assert images == str(len(record.images))
    assert _value(smallest) == pytest.approx(min(known, default=None), abs=5.1e-5)
    assert _value(median) == pytest.approx(record.map_correlation, abs=5.1e-5)
    assert page.row("fit")[0] == "21" and page.row("measurement")[0] == str(len(record.images))
    for p in record.precisions:
        _, ms, memory, size = next(
            r[1:]
            for t in page.tables
            for r in t
            if r[:2] in ([p.precision, p.engine], [f"{p.precision}, uncompressed", p.engine])
        )
        assert float(ms) == p.engine_ms and size == f"{p.model_bytes / 1e6:.2f} MB"
        assert memory == ("-" if p.rss_mb is None else f"{p.rss_mb:.0f} MB")
    for layer in record.sensitivity:
        error, share, where = next(
            r[1:] for t in page.tables for r in t if r[0] == layer.layer and len(r) == 4
        )
        assert error == ("-" if layer.map_error is None else f"{layer.map_error:.3g}")
        assert float(share.removesuffix(" %")) == pytest.approx(100 * layer.gmac_share, abs=0.051)
        assert where == ("float" if layer.left_float else "int8")
    assert f"float engine {record.latency_ms.float_} ms" in page.text
    assert f"target engine {record.latency_ms.target} ms" in page.text


@pytest.mark.parametrize("name", RECORDS)
def test_every_image_is_listed_the_suspicious_first(pages: dict[str, Page], name: str) -> None:
    record = RECORDS[name]
    rows = pages[name].tables[-1][1:]
    listed = {row[0]: row[1:] for row in rows}
    assert len(listed) == len(record.images)
    for one in record.images:
        kind, a, a_verdict, b, b_verdict, correlation, flip = listed[shown_name(one.name)]
        assert kind == ("-" if one.kind is None else shown_name(one.kind))
        for cell, value in ((a, one.float_score), (b, one.target_score), (correlation, one.map_correlation)):
            assert _value(cell) == pytest.approx(_known(value), abs=5.1e-5)
        assert (a_verdict, b_verdict) == (one.float_verdict.value, one.target_verdict.value)
        assert flip == ("flipped" if one.name in record.flipped_verdicts else "")
    keys = [(row[-1] != "flipped", -2.0 if row[-2] == "-" else float(row[-2])) for row in rows]
    assert keys == sorted(keys)


@pytest.mark.parametrize("name", RECORDS)
def test_markdown_has_the_same_tables(pages: dict[str, Page], name: str) -> None:
    text = render_markdown(RECORDS[name])
    # HTML keeps blanks at the ends of a cell, Markdown cannot.
    html = [[[cell.strip() for cell in row] for row in table] for table in pages[name].tables]
    assert markdown_tables(text) == html
    assert "<script" not in text.replace("\\<", "") and "](" not in text.replace("\\]", "")
    for heading in ("# Conversion report", "## Flipped verdicts", "## All images"):
        assert heading in text


def test_hostile_names_leave_the_structure_alone(pages: dict[str, Page]) -> None:
    hostile = RECORDS["hostile"]
    tame_images = [
        image(f"{n}.png", f"kind {n}", 0.2 + n % 2, 0.25, map_correlation=1 - n / 9)
        for n in range(len(HOSTILE))
    ]
    tame = report(
        tame_images,
        name="tame",
        warnings=tuple("w" * len(HOSTILE)),
        provenance={str(n): "value" for n in range(len(HOSTILE))},
        stand_in="another engine",
    )
    assert len(tame.flipped) == len(hostile.flipped) > 0
    assert Page(render_html(tame, noise_pictures())).tags == pages["hostile"].tags
    assert "<script>alert(1)</script>.png" in pages["hostile"].text
    assert "one\\nline\\r\\n# two\\t.png" in pages["hostile"].text
    assert "Prüfling_größe_ÄÖ.png" in pages["hostile"].text
    assert not any("\u202e" in text for text in (pages["hostile"].text, render_markdown(hostile)))


def test_what_broke_comes_first(pages: dict[str, Page]) -> None:
    text = pages["forced"].text
    places = [text.index(part) for part in ("Not passed: 2 limits broken", "the user insisted", *BROKEN)]
    assert places == sorted(places)
    assert places[-1] < text.index("onnxruntime computed it.") < text.index("Few images.")
    assert text.index("Few images.") < text.index("Accuracy: float against target")
    assert "Passed" not in text and "the user insisted" not in pages["labelled"].text
    assert "Passed: no limit is broken" in pages["labelled"].text
    refused = render_markdown(report(limits=_limits(False)))
    assert "Not passed" in refused and "the user insisted" not in refused
    unlimited = Limits(max_drop=None, min_map_correlation=None, passed=True, broken=(), forced=False)
    assert "no limits were set" in render_markdown(report(limits=unlimited))


def test_what_is_missing_is_said(pages: dict[str, Page]) -> None:
    assert "No defective images" in pages["unlabelled"].text
    assert "No defective images" not in pages["labelled"].text
    assert "2 images without a map correlation" in pages["maps without correlation"].text
    assert "not drawn: 1 image." in pages["maps without correlation"].text
    assert "not drawn" not in pages["labelled"].text
    assert (
        "Not measured." in pages["fp32"].text and "None: the target computes in int8." in pages["fp32"].text
    )
    assert "none is shown as the worst" in pages["no correlation at all"].text


def test_pictures_are_those_that_matter() -> None:
    asked: list[str] = []
    images = [image(f"{n}.png", "good", 0.2, 0.3 + n / 100) for n in range(20)]
    images.append(image("worst.png", "dent", 0.9, 0.9, map_correlation=0.2))
    page = Page(render_html(report(images), noise_pictures(asked)))
    assert asked == ["worst.png", *(f"{n}.png" for n in range(19, 7, -1))]
    assert page.tags.count("figure") == 4 + 2 + 12
    assert (
        "8 more lead the table" in page.text and "On 20 of 21 images float and target disagree" in page.text
    )
    asked.clear()
    render_html(report([image("calm.png", "good", 0.1, 0.1)]), noise_pictures(asked))
    assert asked == ["calm.png"]


def test_the_kinds_stand_in_the_order_of_their_loss_with_a_picture() -> None:
    asked: list[str] = []
    record = report(kinds=KINDS)
    page = Page(render_html(record, noise_pictures(asked)))
    assert page.row("crack") == ["4", "0.9921", "0.9412", "-0.0509"]
    assert page.row("dent") == ["5", "0.9811", "0.9833", "+0.0022"]
    table = next(t for t in page.tables if t[0][0] == "kind")
    assert [row[0] for row in table[1:]] == ["crack", "dent"]
    cracks = [i for i in record.images if i.kind == "crack"]
    # Thresholds differ by the same for all, so the score that fell the most is that of the smallest difference.
    fallen = min(cracks, key=lambda i: (i.target_score or 0) - (i.float_score or 0))
    assert asked[0] == fallen.name and "Of a kind that lost" in page.text
    assert asked.count(fallen.name) == 1


def test_the_compression_is_told_and_drawn(pages: dict[str, Page]) -> None:
    page = pages["compressed"]
    table = next(t for t in page.tables if "--compress" in t[0])
    rows = {row[1]: dict(zip(table[0], row, strict=True)) for row in table[1:]}
    for one in (COMPRESSION.uncompressed, *COMPRESSION.candidates):
        row = rows[one.label]
        assert float(row["GMAC"]) == pytest.approx(one.gmac, abs=0.006)
        assert float(row["ms"]) == pytest.approx(one.latency_ms, abs=0.051)
        assert float(row["of uncompressed"]) == pytest.approx(one.latency_ratio, abs=0.0051)
        assert _value(row["image AUROC"]) == pytest.approx(one.image_auroc, abs=5.1e-5)
    # The value that gives the same cut again: never below its share.
    assert rows["directions 32/16, widths 50%"]["--compress"] == "0.252"
    assert [table[i][-1] for i in range(1, 5)] == ["", "breaks a limit", "chosen", ""]
    assert "crack -0.0509" in rows["directions 32/16, widths 75%"]["worst kind"]
    assert "in float, image AUROC drops from 0.9876 to 0.9611" in page.text
    assert "fp32, uncompressed" in page.text
    assert page.tags.count("img") == pages["labelled"].tags.count("img") + 1 + 3
    assert "Chosen: uncompressed" in pages["compressed without labels"].text
    assert "fp32, uncompressed" not in pages["compressed without labels"].text
    assert "--compress" not in pages["labelled"].text


def test_a_thousand_images_with_the_worst_names_stay_small() -> None:
    rng = np.random.default_rng(0)
    images = [
        image(f"{'<&>' * 80}{n:04}", "good", 0.2, 0.3 + n / 1000, map_correlation=float(rng.uniform(0, 1)))
        for n in range(1000)
    ]
    text = render_html(report(images), noise_pictures())
    page = Page(text)
    assert len(text.encode()) < 1_500_000
    shown = len(page.tables[-1]) - 1
    assert (
        0 < shown < 1000
        and f"{shown} images of 1000; the other {1000 - shown} are in report.json" in page.text
    )
    plain = [image(f"test/good/{n:04}.png", "good", 0.2, 0.21) for n in range(1000)]
    text = render_html(report(plain), noise_pictures())
    assert len(text.encode()) < 1_000_000 and len(Page(text).tables[-1]) == 1001


def test_the_thresholds_by_hand_are_differences(pages: dict[str, Page]) -> None:
    assert "less each model's own threshold" in pages["thresholds by hand"].text
    assert "in units of each model's own threshold" in pages["labelled"].text
    assert f"the float threshold {FLOAT_THRESHOLD:.4f}" in pages["labelled"].text
    assert "half the highest cell" in pages["another score"].text


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _value(cell: str) -> float | None:
    return None if cell == "-" else float(cell)
