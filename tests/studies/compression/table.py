"""The study as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tests.studies.compression.rows import Row, change, lost_most, worst_kind
from tests.studies.peers.latency import Latencies, Latency

_ENGINES = {"openvino": "OpenVINO", "ort": "onnxruntime", "tflite": "LiteRT"}
_HEAD = (
    "model", "runs", "image AUROC", "less float", "AUPRO", "less float", "worst kind", "largest loss of a kind",
    "damage lost", "beyond limits", "GMAC", "parameters, M", *(f"{name}, ms (ratio)" for name in _ENGINES.values()),
)  # fmt: skip


def markdown(rows: Sequence[Row], latencies: Latencies | None, missing: Sequence[str]) -> str:
    """The one table, the same by data set, and what is to be known of both."""
    lines = [_line(_HEAD), _rule(_HEAD)]
    for row in rows:
        for suffix in ("", " fp32"):
            engines = {e: t for e in _ENGINES if (t := row.latencies.get(e + suffix))}
            if engines or (not suffix and (row.figures or row.cost)):
                lines.append(_line(_cells(row, engines, suffix)))
    lines += ["", *_notes(rows, latencies)]
    measured = [row for row in rows if row.figures]
    if measured:
        lines += ["", *_by_set(measured)]
    if missing:
        lines += ["", "Missing:", "", *(f"- {line}" for line in missing)]
    return "\n".join(lines) + "\n"


def _cells(row: Row, engines: dict[str, Latency], suffix: str) -> list[str]:
    loss = lost_most(row.figures)
    cells = [row.words + (", float" if suffix else ""), str(len(row.figures) or "-")]
    for value, own in (
        (lambda f: f.image_auroc[1], lambda f: change(f.image_auroc)),
        (lambda f: f.aupro[1], lambda f: change(f.aupro)),
    ):
        cells += [_share(row.mean(value), row.spread(value)), _signed(row.mean(own))]
    cells.append(_share(row.mean(worst_kind), row.spread(worst_kind)))
    cells.append(f"{-loss[0]:.4f} ({loss[1]})" if loss and loss[0] < 0 else "-" if loss is None else "none")
    lost = row.mean(lambda f: f.lost)
    cells.append("-" if lost is None else f"{lost:.1%}")
    cells.append(f"{sum(bool(f.broken) for f in row.figures)} of {len(row.figures)}" if row.figures else "-")
    cells += [f"{row.cost.gmac:.2f}", f"{row.cost.parameters / 1e6:.2f}"] if row.cost else ["-", "-"]
    cells += [_time(engines.get(engine)) for engine in _ENGINES]
    return cells


def _notes(rows: Sequence[Row], latencies: Latencies | None) -> list[str]:
    lines = []
    if latencies is not None:
        base = next((t for t in latencies.models if t.model == latencies.base), None)
        lines.append(
            f"Times: engine alone, one image, median of {latencies.rounds} rounds in one process, all models in turn, "
            f"{latencies.threads} threads, load average before {latencies.load:.1f}; in brackets the median of the "
            f"ratio to '{latencies.base}' in the same round"
            + (f" ({base.engine_ms.p50:.1f} ms)." if base is not None else ".")
            + " Models of which only times are given have random weights, on which the time does not depend; "
            "PaDiM's input is 224 px, all others' is 256 px."
        )
    if any(row.figures for row in rows):
        lines.append(
            "Accuracy: means over the runs, ± the mean over the data sets of the standard deviation over seeds. "
            "“less float” is against the uncut float nets of the same runs; quantiles are fitted for each model. The "
            "worst kind is the lowest image AUROC of a kind of defect against the good images, by run. "
            "“damage lost”: of the map's cells that squares of noise, black, white and foreign pixels on good images lift "
            "in float, the share that they no longer do. “beyond limits”: the runs of which a conversion would not have "
            "written the bundle. GMAC and parameters of a measured model are means."
        )
    return lines


def _by_set(rows: Sequence[Row]) -> list[str]:
    sets = sorted({f.data for row in rows for f in row.figures})
    head = ("image AUROC, AUPRO", *sets)
    lines = [_line(head), _rule(head)]
    for row in rows:
        cells = [row.words]
        for name in sets:
            own = Row(row.key, row.words, None, {}, tuple(f for f in row.figures if f.data == name))
            values = [own.mean(lambda f: f.image_auroc[1]), own.mean(lambda f: f.aupro[1])]
            cells.append(", ".join(_share(v, None) for v in values))
        lines.append(_line(cells))
    return lines


def _time(latency: Latency | None) -> str:
    return f"{latency.engine_ms.p50:.1f} ({latency.ratio:.2f})" if latency else "-"


def _share(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(cells: Sequence[str]) -> str:
    return "|---" * len(cells) + "|"
