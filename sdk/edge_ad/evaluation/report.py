"""An evaluation as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from edge_ad.evaluation.evaluate import Evaluation, LocoFigures
from edge_ad.evaluation.scored import ScoredImage

_ORIGINS = {
    "calibrated": "the calibrated threshold",
    "given": "the given threshold",
    "best-f1": "the threshold of the best F1, chosen on these labels,",
}


def summary(evaluation: Evaluation, title: str) -> str:
    """The figures, the table of classes, and which images to look at first; several lines."""
    e = evaluation
    lines = [
        title,
        f"{len(e.images)} test images: {e.good} good, {e.defects} with a defect",
        f"image score {e.score}, maps mixed {e.mix.st:g}:{e.mix.ae:g}",
        "",
        _row("image AUROC", e.image_auroc, e.absent.get("image_auroc")),
        _row("image AP", e.image_ap, e.absent.get("image_ap")),
        _row("best F1", e.image_f1, e.absent.get("image_f1"), f"   above {_number(e.threshold)}"),
        _row("pixel AUROC", e.pixel_auroc, e.absent.get("pixel_auroc")),
        _row("AUPRO to 0.3", e.aupro, e.absent.get("aupro")),
        *_loco(e.loco),
        "",
        *_table(e),
        "",
        *_look_first(e),
        f"{e.seconds_per_image * 1e3:.1f} ms an image (median, without reading the file)",
    ]
    return "\n".join([*lines, *e.notes])


def _table(e: Evaluation) -> list[str]:
    """Accuracy, precision, recall and images of each class; the AUROC is that of a kind against the good ones."""
    c = e.outcome
    if c is None:
        reason = f"no verdicts: {e.absent['outcome']}; --threshold best-f1, or a number, gives some"
        width = max((len(kind) for kind in e.kind_auroc), default=0)
        return [reason, *(f"AUROC of {kind:<{width}}  {_number(a)}" for kind, a in e.kind_auroc.items())]
    lines = [
        f"at {_ORIGINS[c.origin]} {c.threshold:.4f}: F1 {_number(c.f1)}, "
        + f"{c.false_rejects} of {c.good} good images rejected, {c.escapes} of {c.defects} defects passed"
    ]
    width = max(len("overall"), *(len(row.name) for row in c.classes))
    lines += ["", f"{'class':<{width}}  accuracy  precision  recall  images   AUROC"]
    for row in (*c.classes, c.overall):
        auroc = e.image_auroc if row is c.overall else e.kind_auroc.get(row.name)
        lines.append(
            f"{row.name:<{width}}  {_number(row.accuracy):>8}  {_number(row.precision):>9}  "
            f"{_number(row.recall):>6}  {row.images:>6}  {_number(auroc):>6}"
        )
    return lines


def _loco(figures: LocoFigures | None) -> list[str]:
    if figures is None:
        return []
    names = [*figures.image_auroc, "mean of both"]
    width = max(map(len, names))
    lines = ["", f"{'':<{width}}   AUROC  sPRO to 0.05"]
    auroc = [*figures.image_auroc.values(), figures.mean_image_auroc]
    spro = [*figures.spro.values(), figures.mean_spro]
    for name, a, s in zip(names, auroc, spro, strict=True):
        lines.append(f"{name:<{width}}  {_number(a):>6}  {_number(s):>12}")
    return lines


def _look_first(e: Evaluation) -> list[str]:
    good, defects = e.look_first()
    if not (good and defects):
        return []
    return [
        "look at these first, their labels may be wrong",
        *_ranked("good images with the highest scores", good),
        *_ranked("defects with the lowest scores", defects),
        "",
    ]


def _ranked(title: str, images: Sequence[ScoredImage]) -> list[str]:
    return [f"  {title}", *(f"    {s.score:10.4f}  {s.image.kind}/{s.image.path.name}" for s in images)]


def _row(name: str, value: float | None, reason: str | None, more: str = "") -> str:
    return f"{name:<14}{_number(value)}{more if value is not None else f'   {reason}'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
