"""The timing of one part, drawn as text and as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

from edge_ad_runtime.line.timeline import MARGIN_MS, Timeline

Kind = Literal["point", "camera", "model", "spare", "late", "output", "ejector"]

_COLUMNS = 60
_MARKS: dict[Kind, str] = {
    "point": "|",
    "camera": "-",
    "model": "=",
    "spare": ".",
    "late": "!",
    "output": "+",
    "ejector": "#",
}
# Dark enough on white, told apart by people who see no red or green too (Okabe and Ito's palette).
_COLOURS: dict[Kind, str] = {
    "point": "#000000",
    "camera": "#56b4e9",
    "model": "#0072b2",
    "spare": "#009e73",
    "late": "#d55e00",
    "output": "#e69f00",
    "ejector": "#cc79a7",
}
_WIDTH, _LABELS, _FIGURES, _ROW, _TOP = 1000, 280, 170, 26, 56


@dataclass(frozen=True)
class Row:
    """What happens from ``begin`` to ``end``, in milliseconds; a point where they are the same."""

    label: str
    begin: float
    end: float
    kind: Kind


def rows(times: Timeline) -> list[Row]:
    """A timeline from top to bottom."""
    found: list[Row] = []
    if times.triggered:
        found += [
            Row("trigger", 0.0, 0.0, "point"),
            Row("exposure begins", times.in_view_ms, times.frame_ms, "camera"),
            Row("frame's timestamp", times.in_view_ms + times.latency_ms, times.frame_ms, "camera"),
        ]
    else:
        found += [
            Row("exposure begins", times.in_view_ms, times.frame_ms, "camera"),
            Row("frame's timestamp", times.frame_ms, times.frame_ms, "point"),
        ]
    model = "model not measured" if times.model_ms is None else f"model {times.model_ms:.4g} ms"
    found.append(Row(f"scored ({model})", times.frame_ms, times.scored_ms, "model"))
    if times.decided_ms is not None and times.spare_ms is not None:
        if times.spare_ms >= 0:
            found.append(Row("spare", times.scored_ms, times.decided_ms, "spare"))
        else:
            found.append(Row("verdict too late", times.decided_ms, times.scored_ms, "late"))
        found.append(Row("decision", times.decided_ms, times.decided_ms, "point"))
    for output in times.outputs:
        found.append(Row(f"driven: {output.name}", output.told_ms, output.rests_ms, "output"))
        if output.told_ms != output.acts_ms:
            found.append(Row("  acts", output.acts_ms, output.ends_ms, "ejector"))
    found.append(Row("part at the ejector", times.ejector_ms, times.ejector_ms, "point"))
    if times.next_ms is not None:
        found.append(Row("next part there, at the minimum gap", times.next_ms, times.next_ms, "point"))
    return found


def _figure(row: Row) -> str:
    return f"{row.begin:.4g}" if row.begin == row.end else f"{row.begin:.4g} to {row.end:.4g}"


def _title(times: Timeline) -> str:
    return "ms after the trigger" if times.triggered else "ms after the frame's timestamp"


def _bounds(found: list[Row]) -> tuple[float, float]:
    low, high = min(row.begin for row in found), max(row.end for row in found)
    return min(low, 0.0), high if high > low else low + 1.0


def draw_text(times: Timeline) -> str:
    """The timing of one part for a terminal, at most 132 columns wide."""
    found = rows(times)
    low, high = _bounds(found)
    # Names of devices are cut, so that the drawing fits.
    labels = [row.label if len(row.label) <= 40 else row.label[:39] + "~" for row in found]
    figures = [_figure(row) for row in found]
    wide, broad = max(map(len, labels)), max(map(len, figures))
    lines = [f"{'':<{wide}}  {_title(times):>{broad}}"]
    for row, label, figure in zip(found, labels, figures, strict=True):
        begin = round((row.begin - low) / (high - low) * (_COLUMNS - 1))
        end = round((row.end - low) / (high - low) * (_COLUMNS - 1))
        mark = _MARKS["point" if row.begin == row.end else row.kind]
        lines.append(f"{label:<{wide}}  {figure:>{broad}}  {' ' * begin}{mark * (end - begin + 1)}")
    return "\n".join(lines)


def _step(span: float) -> float:
    """A round distance of about ten marks on an axis."""
    step = 10.0**-6
    while True:
        for factor in (1, 2, 5):
            if span / (step * factor) <= 10:
                return step * factor
        step *= 10


def draw_svg(times: Timeline, name: str) -> str:
    """The timing of one part as an SVG file: one piece, without scripts, links or fonts of its own."""
    found = rows(times)
    low, high = _bounds(found)
    plot = _WIDTH - _LABELS - _FIGURES - 20
    height = _TOP + _ROW * len(found) + 40

    def x(ms: float) -> float:
        return _LABELS + (ms - low) / (high - low) * plot

    bottom = _TOP + _ROW * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(name)}: the timing of one part</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="bold">{escape(name)}: the timing of one part</text>',
        f'<text x="12" y="43" fill="#555555">{escape(_title(times))}, at the latest; {MARGIN_MS:g} ms allowed for the rest</text>',
    ]
    step = _step(high - low)
    for number in range(round(low / step), round(high / step) + 1):
        at = number * step
        if low <= at <= high:
            parts.append(
                f'<line x1="{x(at):.1f}" y1="{_TOP}" x2="{x(at):.1f}" y2="{bottom}" stroke="#dddddd"/>'
            )
            parts.append(
                f'<text x="{x(at):.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555555">{at:g}</text>'
            )
    for i, row in enumerate(found):
        y = _TOP + _ROW * i
        label = row.label if len(row.label) <= 36 else row.label[:35] + "…"
        parts.append(f'<text x="12" y="{y + 17}">{escape(label)}</text>')
        if row.begin == row.end:
            parts.append(
                f'<line x1="{x(row.begin):.1f}" y1="{y + 3}" x2="{x(row.begin):.1f}" y2="{y + 23}" '
                f'stroke="{_COLOURS["point"]}" stroke-width="2"/>'
            )
        else:
            width = max(x(row.end) - x(row.begin), 1.0)
            parts.append(
                f'<rect x="{x(row.begin):.1f}" y="{y + 5}" width="{width:.1f}" height="16" '
                f'fill="{_COLOURS[row.kind]}"/>'
            )
        parts.append(f'<text x="{_WIDTH - _FIGURES + 8}" y="{y + 17}">{escape(_figure(row))} ms</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
