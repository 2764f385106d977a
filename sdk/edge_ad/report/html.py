"""The report as one HTML page: no scripts, nothing from outside, pictures inside."""

from __future__ import annotations

import base64
from html import escape
from string import Template

from edge_ad.report.blocks import Block, Chart, ColourScale, Fold, Heading, Heats, Notice, Table, Text
from edge_ad.report.charts import draw
from edge_ad.report.content import blocks, title
from edge_ad.report.model import Report
from edge_ad.report.pictures import PictureSource, panels, scale_png
from edge_ad.report.text import visible

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #5b6470; --line: #d5dae0;
  --good: #1a7f37; --bad: #b3261e; --note: #8a5a00; --band: #f4f6f8 }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e7eb; --faint: #a0a8b3; --line: #39414b;
  --good: #57c878; --bad: #ff8a80; --note: #e6b450; --band: #1d2127 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.6rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem }
p, figcaption, li { max-width: 50rem; overflow-wrap: anywhere }
figcaption { color: var(--faint); font-size: .9rem }
figure { margin: 1rem 0 }
figure img { max-width: 100%; height: auto }
.chart img { background: #fff; border: 1px solid var(--line); border-radius: 4px; max-height: 34rem }
.heats > div { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; max-width: 46rem }
.heats.large > div { max-width: 62rem }
.heats img { width: 100%; display: block }
.heats span { font-size: .85rem; color: var(--faint) }
.notice { border: 1px solid; border-left-width: 6px; border-radius: 4px; padding: .5rem .9rem; margin: .7rem 0 }
.notice p, .notice ul { margin: .2rem 0 }
.notice b { color: inherit }
.good { border-color: var(--good) } .good b { color: var(--good) }
.bad { border-color: var(--bad) } .bad b { color: var(--bad) }
.note { border-color: var(--note) } .note b { color: var(--note) }
.wide { overflow-x: auto; margin: .7rem 0 }
table { border-collapse: collapse; font-size: .9rem }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere }
th { background: var(--band); overflow-wrap: normal }
tbody td:first-child { min-width: 7rem }
$right { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; overflow-wrap: normal }
summary { cursor: pointer }
@media print { @page { size: A4; margin: 14mm } :root { --paper: #fff; --ink: #000; --faint: #444; --line: #bbb;
  --good: #1a7f37; --bad: #b3261e; --note: #8a5a00; --band: #eee; color-scheme: light }
  body { font-size: 10pt } main { max-width: none; padding: 0 } h2, p:has(+ .wide) { break-after: avoid }
  figure, .notice, tr { break-inside: avoid } .chart img { max-height: 120mm } .wide { overflow: visible } }
"""
# Columns are aligned by a class of the table, which is shorter than one for each cell.
_COLUMNS = 13
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")


def render_html(report: Report, pictures: PictureSource) -> str:
    """The page, below 1.5 MB.

    Args:
        report: the record.
        pictures: asked for the few images that are drawn, one after the other.

    Raises:
        MissingExtra: matplotlib is not installed.
        ImageError: an image cannot be read again.
    """
    right = ", ".join(f".r{i} :is(th, td):nth-child({i + 1})" for i in range(_COLUMNS))
    return _PAGE.substitute(
        title=_text(title(report)),
        style=Template(_STYLE).substitute(right=right),
        body="\n".join(_written(block, report, pictures) for block in blocks(report)),
    )


def _text(text: str) -> str:
    return escape(visible(text))


def _written(block: Block, report: Report, pictures: PictureSource) -> str:
    if isinstance(block, Heading):
        return f"<h2>{_text(block.text)}</h2>"
    if isinstance(block, Text):
        return f"<p>{_text(block.text)}</p>"
    if isinstance(block, Notice):
        return _notice(block)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Fold):
        return f"<details><summary>{_text(block.summary)}</summary>{_table(block.table)}</details>"
    if isinstance(block, Chart):
        image = _image("png", draw(block.kind, report), block.alternative)
        return f'<figure class="chart">{image}<figcaption>{_text(block.caption)}</figcaption></figure>'
    if isinstance(block, ColourScale):
        image = _image("png", scale_png(), "Colour scale")
        return f"<figure>{image}<figcaption>{_text(block.caption)}</figcaption></figure>"
    return _heats(block, report, pictures)


def _notice(notice: Notice) -> str:
    text = f"<p>{_text(notice.text)}</p>" if notice.text else ""
    items = "".join(f"<li>{_text(item)}</li>" for item in notice.items)
    listed = f"<ul>{items}</ul>" if items else ""
    return f'<div class="notice {notice.tone}"><p><b>{_text(notice.title)}</b></p>{text}{listed}</div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.head)
    rows = "\n".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    aligned = " ".join(f"r{i}" for i in table.right)
    return (
        f'<div class="wide"><table class="{aligned}"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _heats(block: Heats, report: Report, pictures: PictureSource) -> str:
    names = ("image", "float", "target")
    parts = zip(names, panels(pictures(block.image), report, block.large), strict=True)
    cells = "".join(f"<div>{_image('jpeg', data, name)}<span>{name}</span></div>" for name, data in parts)
    size = " large" if block.large else ""
    return f'<figure class="heats{size}"><div>{cells}</div><figcaption>{_text(block.caption)}</figcaption></figure>'


def _image(kind: str, data: bytes, alternative: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{_text(alternative)}">'
