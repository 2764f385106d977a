"""The report as Markdown (GitHub's tables), without pictures."""

from __future__ import annotations

import re

from edge_ad.report.blocks import Block, Fold, Heading, Heats, Notice, Table, Text
from edge_ad.report.content import blocks, title
from edge_ad.report.model import Report
from edge_ad.report.text import visible

# What could begin markup somewhere within a line, HTML included.
_MARKUP = re.compile(r"([\\`*_\[\]<>|&~$#!])")


def render_markdown(report: Report) -> str:
    """The page, ending in a line end."""
    parts = [f"# {escape(title(report))}"]
    parts += [text for block in blocks(report) if (text := _written(block))]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\1", visible(text))


def _written(block: Block) -> str:
    """A block's Markdown; of pictures only what they are captioned with, of charts nothing."""
    if isinstance(block, Heading):
        return f"## {escape(block.text)}"
    if isinstance(block, Text):
        return escape(block.text)
    if isinstance(block, Notice):
        head = " ".join(p for p in (f"**{escape(block.title)}.**", escape(block.text)) if p)
        lines = [head, *([""] if block.items else []), *(f"- {escape(item)}" for item in block.items)]
        return "\n".join(f"> {line}".rstrip() for line in lines)
    if isinstance(block, Heats):
        return f"- {escape(block.caption)}"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Fold):
        return f"{escape(block.summary)}:\n\n{_table(block.table)}"
    return ""


def _table(table: Table) -> str:
    rule = ["---:" if i in table.right else "---" for i in range(len(table.head))]
    rows = [[escape(cell) for cell in row] for row in (table.head, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])
