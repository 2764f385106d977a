"""The study's result as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.studies.peers.accuracy import Accuracy
from tests.studies.peers.latency import Latencies
from tests.studies.peers.models import Made

_HEAD = (
    "model", "quantiles", "ms", "ratio", "fastest ms", "its ratio", "input ms", "image AUROC", "AUPRO", "map r good (worst)",
    "map r all (worst)", "score r", "flipped", "good rejected", "defects passed", "MB",
)  # fmt: skip


def markdown(
    title: str, made: Mapping[str, Made], accuracies: Sequence[Accuracy], latencies: Latencies | None
) -> str:
    """A row for each model and calibration; what could not be made follows with its reason."""
    times = {t.model: t for t in latencies.models} if latencies else {}
    models = {m.name: m for step in made.values() for m in step.models}
    lines = [f"## {title}", "", f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    measured = {a.model for a in accuracies}
    rows: list[tuple[str, Accuracy | None]] = [(a.model, a) for a in accuracies]
    rows += [(name, None) for name in models if name not in measured]
    for name, a in rows:
        t, m = times.get(name), models.get(name)
        cells = [name, a.quantiles if a else "-"]
        cells += (
            [
                f"{t.engine_ms.p50:.1f}", f"{t.ratio:.2f}", f"{t.fastest_ms:.1f}", f"{t.fastest_ratio:.2f}",
                f"{t.prepare_ms:.2f}",
            ]
            if t
            else ["-"] * 5
        )  # fmt: skip
        cells += (
            [
                _share(a.image_auroc), _share(a.aupro),
                f"{a.map_correlation_good:.4f} ({a.worst_map_correlation_good:.4f})",
                f"{a.map_correlation_all:.4f} ({a.worst_map_correlation_all:.4f})",
                f"{a.score_correlation:.4f}", _count(a.flipped), _count(a.false_rejects), _count(a.escapes),
            ]
            if a
            else ["-"] * 8
        )  # fmt: skip
        cells.append(f"{m.bytes / 1e6:.2f}" if m else "-")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    if latencies:
        lines.append(
            f"Times: median of {latencies.rounds} rounds, {latencies.threads} threads, models in turn; the ratio is "
            f"to '{latencies.base}'; load average before: {latencies.load:.1f}."
        )
    tools = sorted({f"{m.engine}: {m.tool}" for m in models.values()})
    lines += [f"Tools: {'; '.join(tools)}."]
    lines += [f"Missing in '{step}': {m.failure}" for step, m in made.items() if m.failure]
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
