"""What the report says, in which order; how it looks is decided by its writers."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

import numpy as np

from edge_ad.report.blocks import Block, Chart, ColourScale, Fold, Heading, Heats, Notice, Table, Text
from edge_ad.report.model import GOOD, CompressionCandidate, ImageResult, Report, Side, defined
from edge_ad.report.text import (
    UNDEFINED,
    count,
    difference,
    megabytes,
    number,
    percent,
    plural,
    shown_name,
    significant,
)

DRAWN_FLIPS = 12
"""Flipped verdicts that are shown with pictures, those of the kinds that lost among them."""
DRAWN_KINDS = 4
"""Kinds of defect that lost and are shown with a picture."""
# What the table of all images may take of a page that should stay below 1.5 MB.
_TABLE_BYTES = 350_000


def title(report: Report) -> str:
    return f"Conversion report: {shown_name(report.name)}"


def blocks(report: Report) -> Iterator[Block]:
    """The report from the verdict to the table of all images."""
    yield from _verdict(report)
    yield from _accuracy(report)
    yield from _kinds(report)
    yield from _compression(report)
    yield from _scores(report)
    yield from _maps(report)
    yield from _flips(report)
    yield from _cost(report)
    yield from _quantization(report)
    yield from _sensitivity(report)
    yield from _origin(report)
    yield from _all_images(report)


def _verdict(r: Report) -> Iterator[Block]:
    yield Text(
        f"What became of a trained model when it was converted to {r.target.precision} for the target "
        f"{r.built_for}. “Float” is the trained model ({r.float_.precision} in {r.float_.engine}), “target” the "
        f"converted one ({r.target.precision} in {r.target.engine}). Both saw the same "
        f"{plural(r.measured_images, 'image')} ({r.measured_on}); each has quantiles and a threshold of its own, "
        f"fitted in its own engine. Written {r.created}."
    )
    limits = r.limits
    wanted = [f"accuracy may drop by {significant(limits.max_drop)}"] if limits.max_drop is not None else []
    if limits.min_map_correlation is not None:
        wanted.append(f"the map correlation must reach {significant(limits.min_map_correlation)}")
    if limits.max_kind_drop is not None and r.kinds:
        wanted.append(
            f"the AUROC of each kind of defect may drop by {significant(limits.max_kind_drop)} or by one pair of "
            "images"
        )
    allowed = f"Limits: {', '.join(wanted)}." if wanted else "No limits were set."
    if limits.broken:
        insisted = (
            "The bundle was written because the user insisted on it."
            if limits.forced
            else "Nobody insisted on a bundle."
        )
        yield Notice(
            "bad",
            f"Not passed: {plural(len(limits.broken), 'limit')} broken",
            f"{insisted} {allowed}",
            limits.broken,
        )
    else:
        yield Notice(
            "good", "Passed: no limit is broken" if wanted else "Passed: no limits were set", allowed
        )
    if not r.labelled:
        yield Notice(
            "note",
            "No defective images",
            "Without labelled images of defects, accuracy cannot be compared. What follows shows only how far "
            "scores and maps of the images at hand moved.",
        )
    if r.stand_in is not None:
        yield Notice("note", "Another engine stood in", r.stand_in)
    if undefined := sum(defined(i.map_correlation) is None for i in r.images):
        yield Notice(
            "note",
            f"{plural(undefined, 'image')} without a map correlation",
            "A map that is the same everywhere, or not finite, correlates with nothing. No trained model "
            "should give one; these images lead the table of all images.",
        )
    if r.warnings:
        yield Notice("note", plural(len(r.warnings), "warning"), items=r.warnings)


def _accuracy(r: Report) -> Iterator[Block]:
    yield Heading("Accuracy: float against target")
    good = sum(i.kind == GOOD for i in r.images)
    defects = sum(i.kind not in (None, GOOD) for i in r.images)
    a, b = r.float_, r.target
    figures = (
        ("Image AUROC", a.image_auroc, b.image_auroc,
         "Chance that a defective image scores higher than a good one; 1 is perfect, 0.5 is guessing."),
        ("AUPRO", a.aupro, b.aupro,
         "How much of each defective region its map finds, over false-positive rates up to 0.3; 1 is perfect."),
        ("Pixel AUROC", a.pixel_auroc, b.pixel_auroc,
         "Chance that a defective pixel lies higher in the map than another one."),
        ("Best F1", a.image_f1, b.image_f1,
         "Balance of defects found and alarms that are right, at the best threshold for these very labels."),
    )  # fmt: skip
    counts = (
        ("False rejects", a.false_rejects, b.false_rejects, good,
         "Good images that the model rejects at its own threshold."),
        ("Escapes", a.escapes, b.escapes, defects,
         "Defective images that the model passes at its own threshold."),
    )  # fmt: skip
    rows = [(name, number(x), number(y), difference(x, y), says) for name, x, y, says in figures]
    rows += [(name, count(x, of), count(y, of), difference(x, y, 0), says) for name, x, y, of, says in counts]
    rows.append(
        (
            "Threshold",
            number(a.calibrated_threshold),
            number(b.calibrated_threshold),
            difference(a.calibrated_threshold, b.calibrated_threshold),
            "A part is rejected above it; fitted on good images in each engine, so the two differ.",
        )
    )
    yield Table(("", "float", "target", "change", "what it is"), tuple(rows), right=(1, 2, 3))
    if any(UNDEFINED in row for row in rows):
        yield Text(f"“{UNDEFINED}”: not measured, because labels or masks of the defects are missing.")


def _kinds(r: Report) -> Iterator[Block]:
    if not r.kinds:
        return
    yield Heading("Kinds of defect")
    yield Text(
        "The image AUROC of each kind of defect alone against the good images, the largest drop first. A kind that "
        "float finds and target does not would hide among the others in the figure for all."
    )
    ordered = sorted(r.kinds, key=lambda k: -(defined(k.drop) or 0.0))
    yield Table(
        ("kind", "images", "float", "target", "change"),
        tuple(
            (
                shown_name(k.kind),
                str(k.images),
                number(k.float_auroc),
                number(k.target_auroc),
                difference(k.float_auroc, k.target_auroc),
            )
            for k in ordered
        ),
        right=(1, 2, 3, 4),
    )
    for image in lost_images(r):
        yield Heats(image.name, f"Of a kind that lost, the score fell the most: {_described(image, r)}.")


def lost_images(r: Report) -> list[ImageResult]:
    """Of each kind whose AUROC dropped, at most :data:`DRAWN_KINDS` kinds, the image whose score fell the most."""
    dropped = sorted((k for k in r.kinds if (defined(k.drop) or 0.0) > 0), key=lambda k: -(k.drop or 0.0))
    return [
        min((i for i in r.images if i.kind == kind.kind), key=lambda i: _rise(i, r))
        for kind in dropped[:DRAWN_KINDS]
    ]


def _compression(r: Report) -> Iterator[Block]:
    if (c := r.compression) is None:
        return
    yield Heading("Compression")
    how = (
        "Shapes of the networks with less arithmetic, the cheapest first; the cheapest that breaks no limit in float "
        f"nor in {r.target.precision} was to be taken"
        if c.asked == "auto"
        else f"The networks cut to {c.asked} of their arithmetic"
    )
    yield Text(
        f"{how}. Chosen: {c.chosen.label}, {number(c.chosen.gmac, 2)} GMAC of {number(c.uncompressed.gmac, 2)}. "
        "Float in this report is the uncompressed model. The accuracy here is that of the cut alone, in float; what "
        "came of the chosen one as a whole stands under “Accuracy”."
    )
    yield Table(
        (
            "",
            "cut",
            "GMAC",
            "parameters",
            "ms",
            "of uncompressed",
            "image AUROC",
            "AUPRO",
            "worst kind",
            "map correlation",
            "damage lost",
            "--compress",
            "",
        ),
        tuple(_candidate_row(n, one) for n, one in enumerate((c.uncompressed, *c.candidates))),
        right=(2, 3, 4, 5, 6, 7, 9, 10, 11),
    )
    yield Text(
        f"Time is that of one image as {r.target.precision} in {r.target.engine} on the machine of the conversion, "
        "“of uncompressed” its ratio in the same rounds. “Worst kind” is the kind of defect whose AUROC drops the "
        "most. “Map correlation” is that of good images with the uncompressed float model. “Damage lost” is the share "
        "of the map's cells that damage (squares of noise, black, white, inverted and foreign pixels) lifted far "
        "above all good ones and no longer does. To take another cut, convert with the value in its row; one that "
        "breaks a limit needs --force as well."
    )
    yield Chart(
        "pareto",
        "Accuracy over time: each mark is a row of the table, with its number. Up and to the left is better. The line "
        "joins what is not beaten in both, among those that break no known limit (filled marks); hollow marks break "
        "one, the ring is the chosen one.",
        "Accuracy of each cut over its time",
    )
    if broken := [b for b in (_breaks(n + 1, one, r) for n, one in enumerate(c.candidates)) if b]:
        yield Notice("note", "Limits that the others break", items=tuple(broken))


def _candidate_row(n: int, c: CompressionCandidate) -> tuple[str, ...]:
    worst = c.worst_kind
    return (
        str(n),
        c.label,
        number(c.gmac, 2),
        f"{c.parameters / 1e6:.2f} M",
        number(c.latency_ms, 1),
        number(c.latency_ratio, 2),
        number(c.image_auroc),
        number(c.aupro),
        UNDEFINED if worst is None else f"{shown_name(worst.kind)} {difference(worst.float_auroc, worst.target_auroc)}",
        number(c.good_map_correlation),
        UNDEFINED if defined(c.lost) is None else percent(c.lost or 0.0),
        # Rounded up, so that the same shape fits.
        f"{math.ceil(c.share * 1000) / 1000:g}" if c.share < 1 else UNDEFINED,
        "chosen" if c.chosen else "" if c.passes else "breaks a limit",
    )  # fmt: skip


def _breaks(n: int, c: CompressionCandidate, r: Report) -> str:
    parts = []
    if c.broken:
        parts.append(f"in float, {'; '.join(c.broken)}")
    if c.target_broken:
        parts.append(f"in {r.target.precision}, {'; '.join(c.target_broken)}")
    return f"{n} ({c.label}): {'. '.join(parts)}" if parts else ""


def _scores(r: Report) -> Iterator[Block]:
    yield Heading("Scores")
    unit = "in units of each model's own threshold"
    if not relative_scores(r):
        unit = "less each model's own threshold"
    left_out = sum(defined(i.float_score) is None or defined(i.target_score) is None for i in r.images)
    missing = f" Without a finite score and not drawn: {plural(left_out, 'image')}." if left_out else ""
    yield Table(
        ("", "value", "what it is"),
        (
            (
                "Score correlation",
                number(r.score_correlation),
                "Pearson's correlation of float and target scores over the images; 1: one follows from the other.",
            ),
            (
                "Flipped verdicts",
                count(len(r.flipped_verdicts), r.measured_images),
                "Images that one model passes and the other does not.",
            ),
        ),
        right=(1,),
    )
    yield Chart(
        "scatter",
        f"Each mark is an image: its float score to the right, its target score upward, both {unit}. On the "
        "diagonal nothing changed; in the shaded quarters the verdict flipped (red rings)." + missing,
        "Scatter of target scores over float scores",
    )
    yield Chart(
        "histograms",
        f"How many images have which score, {unit}, float above and target below. Right of the black line a "
        "part is rejected: good images there are false rejects, defects to its left escapes." + missing,
        "Histograms of the float and the target scores",
    )


def relative_scores(report: Report) -> bool:
    """Whether scores can be given in units of the thresholds, which must be positive for that."""
    return min(report.float_.calibrated_threshold, report.target.calibrated_threshold) > 0


def _maps(r: Report) -> Iterator[Block]:
    yield Heading("Anomaly maps")
    yield Text(
        "The map correlation of an image is Pearson's correlation of its float and its target anomaly map, cell "
        "by cell: 1 means that both show the same places as equally anomalous, 0 that they have nothing in "
        "common. On good images a map is mostly noise, so even a small error lowers it there."
    )
    groups = [
        ("all images", list(r.images), r.map_correlation),
        ("good images", [i for i in r.images if i.kind == GOOD], r.good_map_correlation),
    ]
    if r.labelled:
        groups.append(("images with a defect", [i for i in r.images if i.kind not in (None, GOOD)], None))
    rows = []
    for name, images, median in groups:
        values = _correlations(images)
        low, fifth, middle = np.quantile(values, (0, 0.05, 0.5)) if values else (None, None, None)
        middle = middle if defined(median) is None else median
        rows.append((name, str(len(images)), number(low), number(fifth), number(middle)))
    yield Table(
        ("map correlation", "images", "smallest", "5 % lie below", "median"), tuple(rows), (1, 2, 3, 4)
    )
    yield Chart(
        "correlations",
        "How many images have which map correlation. The axis is stretched towards 1, where all should lie."
        + (" The dashed line is the limit." if r.limits.min_map_correlation is not None else ""),
        "Histogram of the map correlations",
    )
    if (worst := r.worst_image) is None:
        yield Text("No image has a map correlation, so none is shown as the worst.")
        return
    yield Heats(
        worst.name,
        f"The worst image, of the smallest map correlation: {_described(worst, r)}.",
        large=True,
    )
    yield ColourScale(_scale_caption(r))


def _scale_caption(r: Report) -> str:
    if r.score_rule == "max":
        middle = (
            f"its middle, the white tick, is the float threshold {number(r.float_.calibrated_threshold)}, in both "
            "maps and in all pictures; white lines surround what exceeds each model's own threshold"
        )
    else:
        middle = "its middle, the white tick, is half the highest cell of the two maps of that picture"
    return (
        f"The colours of the heat maps, lowest on the left. Black is 0, below which nine tenths of the cells of "
        f"good images lie; {middle}. Both maps of a picture have the same scale."
    )


def _flips(r: Report) -> Iterator[Block]:
    yield Heading("Flipped verdicts")
    flipped = r.flipped
    if not flipped:
        yield Text(
            "None: every image that float passes, target passes, and every image that float rejects, target "
            "rejects."
        )
        return
    yield Text(
        f"On {count(len(flipped), r.measured_images)} images float and target disagree whether the part passes. "
        "Those whose scores moved farthest come first. A flip close to the threshold says little about the "
        "conversion, one far from it a lot."
    )
    drawn = lost_images(r)
    shown = sorted((i for i in flipped if i not in drawn), key=lambda i: -abs(_rise(i, r)))
    shown = shown[: DRAWN_FLIPS - len(drawn)]
    for image in shown:
        yield Heats(image.name, f"{_described(image, r)}.")
    above = sum(i.flipped for i in drawn)
    if above:
        yield Text(f"{plural(above, 'flipped image')} stand above, under the kinds of defect.")
    if more := len(flipped) - len(shown) - above:
        yield Text(f"{more} more lead the table of all images at the end.")


def _rise(image: ImageResult, r: Report) -> float:
    """How far the score rose relative to the threshold; one that is not finite fell farthest."""
    a, b = defined(image.float_score), defined(image.target_score)
    if a is None or b is None:
        return float("-inf")
    return (b - r.target.calibrated_threshold) - (a - r.float_.calibrated_threshold)


def _described(image: ImageResult, r: Report) -> str:
    kind = "no label" if image.kind is None else shown_name(image.kind)
    return (
        f"{shown_name(image.name)} ({kind}), map correlation {number(image.map_correlation)}, float score "
        f"{number(image.float_score)} ({image.float_verdict.value}, threshold "
        f"{number(r.float_.calibrated_threshold)}), target score {number(image.target_score)} "
        f"({image.target_verdict.value}, threshold {number(r.target.calibrated_threshold)})"
    )


def _cost(r: Report) -> Iterator[Block]:
    yield Heading("Time, memory and size")
    a, b = r.latency_ms.float_, r.latency_ms.target
    ratio = f", {significant(b / a)} of it" if a > 0 else ""
    yield Text(
        f"One image takes the float engine {number(a, 1)} ms and the target engine {number(b, 1)} ms{ratio} "
        "(median, on the machine of the conversion, without preprocessing; a device has other times). The graph "
        f"needs {significant(r.gmac)} GMAC (1e9 multiply-accumulates) per image. The model file has "
        f"{megabytes(r.model_bytes.float_)} as float and {megabytes(r.model_bytes.target)} as target."
    )
    cut = r.compression is not None and not r.compression.uncompressed.chosen
    if r.precisions:
        yield Table(
            ("precision", "engine", "ms per image", "memory", "model file"),
            tuple(
                (
                    f"{p.precision}, uncompressed" if cut and n == 0 else p.precision,
                    p.engine,
                    number(p.engine_ms, 1),
                    UNDEFINED if defined(p.rss_mb) is None else f"{number(p.rss_mb, 0)} MB",
                    megabytes(p.model_bytes),
                )
                for n, p in enumerate(r.precisions)
            ),
            right=(2, 3, 4),
        )
        yield Text("Memory is what the process that runs the engine holds (resident set size).")


def _quantization(r: Report) -> Iterator[Block]:
    yield Heading("Quantization")
    q = r.quantization
    if q is None:
        yield Text(f"None: the target computes in {r.target.precision}.")
        return
    yield Table(
        ("choice", "value", "what it is"),
        (
            (
                "Ranges by",
                q.range_method,
                "The method that turns the activations of good images into ranges for 8 bits.",
            ),
            (
                "Headroom",
                significant(q.headroom),
                f"How many times as far as good images the ranges reach, for the defects. {q.headroom_source}",
            ),
            (
                "Equalization",
                "yes" if q.equalization else "no",
                "Weights scaled from one layer to the next so that their channels use the 8 bits alike.",
            ),
            (
                "Layers left in float",
                str(len(q.float_layers)),
                "Layers that are too sensitive for 8 bits.",
            ),
        ),
    )
    if q.candidates:
        yield Text(
            "The methods tried, with the relative error of the anomaly maps against float that each alone causes."
        )
        yield Table(
            ("ranges by", "map error", ""),
            tuple(
                (c.method, significant(c.map_error), "chosen" if c.method == q.range_method else "")
                for c in q.candidates
            ),
            right=(1,),
        )
    if q.float_layers:
        yield Text("The layers left in float, and what each costs in time.")
        yield Table(
            ("layer", "ms per image"),
            tuple((layer.layer, number(layer.cost_ms, 2)) for layer in q.float_layers),
            right=(1,),
        )


def _sensitivity(r: Report) -> Iterator[Block]:
    yield Heading("Sensitivity of the layers")
    if not r.sensitivity:
        yield Text("Not measured.")
        return
    yield Text(
        "How far the anomaly maps move if only this layer is INT8 and all others stay in float (relative error), "
        "and the layer's share of the multiply-accumulates. A layer with a large error and a small share is a "
        "cheap one to leave in float."
    )
    yield Chart(
        "sensitivity",
        "The map error that each layer causes alone, the most sensitive first; hatched layers were left in float.",
        "Bars of the map error of each layer",
    )
    yield Table(
        ("layer", "map error", "share of GMAC", "computed in"),
        tuple(
            (
                s.layer,
                significant(s.map_error),
                percent(s.gmac_share),
                "float" if s.left_float else r.target.precision,
            )
            for s in r.sensitivity
        ),
        right=(1, 2),
    )


def _origin(r: Report) -> Iterator[Block]:
    yield Heading("Where the figures come from")
    yield Table(
        ("images for", "number", "what they decide"),
        (
            ("ranges", str(r.sets.ranges), "The ranges of the INT8 activations."),
            ("fit", str(r.sets.fit), "Quantiles and threshold of both models; never trained on."),
            ("measurement", str(r.sets.measurement), f"Every figure of this report: {r.measured_on}."),
        ),
        right=(1,),
    )
    yield Text(
        "The quantiles scale the two raw maps (st: student against teacher, ae: student against autoencoder): qa "
        "becomes 0 and qb becomes 0.1 in the combined map."
    )
    yield Table(
        ("", "qa st", "qb st", "qa ae", "qb ae"),
        (_quantiles("float", r.float_), _quantiles("target", r.target)),
        right=(1, 2, 3, 4),
    )
    rows = {
        "image score": r.score_rule,
        "fused graph against the networks, largest relative deviation": significant(r.fusion_deviation),
        **r.provenance,
    }
    yield Table(("provenance", "value"), tuple(rows.items()))


def _quantiles(name: str, side: Side) -> tuple[str, ...]:
    q = side.quantiles
    return (name, *(f"{v:.6g}" for v in (q.qa_st, q.qb_st, q.qa_ae, q.qb_ae)))


def _all_images(r: Report) -> Iterator[Block]:
    yield Heading("All images")
    ordered = sorted(r.images, key=lambda i: (not i.flipped, _order(i.map_correlation), i.name))
    rows: list[tuple[str, ...]] = []
    taken = 0
    for image in ordered:
        row = (
            shown_name(image.name),
            UNDEFINED if image.kind is None else shown_name(image.kind),
            number(image.float_score),
            image.float_verdict.value,
            number(image.target_score),
            image.target_verdict.value,
            number(image.map_correlation),
            "flipped" if image.flipped else "",
        )
        # Each cell comes with its tags.
        taken += sum(len(html.escape(cell).encode()) + 9 for cell in row) + 10
        if taken > _TABLE_BYTES:
            break
        rows.append(row)
    what = plural(len(rows), "image")
    if left := len(ordered) - len(rows):
        what += f" of {len(ordered)}; the other {left} are in report.json"
    yield Fold(
        f"{what}, flipped verdicts first, then by map correlation, the smallest first",
        Table(
            ("image", "kind", "float score", "verdict", "target score", "verdict", "map correlation", ""),
            tuple(rows),
            right=(2, 4, 6),
        ),
    )


def _order(correlation: float | None) -> float:
    known = defined(correlation)
    return -2.0 if known is None else known


def _correlations(images: Sequence[ImageResult]) -> list[float]:
    return [c for i in images if (c := defined(i.map_correlation)) is not None]
