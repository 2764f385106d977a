"""The study of compression: what is timed, what is kept, and what the table says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch

from edge_ad.run_folder import open_run
from edge_ad_converters.compress.shape import description_gmac, shape_gmac
from edge_ad_converters.fuse import fuse
from edge_ad_runtime.timing import Percentiles
from tests.studies.compression.__main__ import main
from tests.studies.compression.accuracy import Effort, measure
from tests.studies.compression.cost import Cost, onnx_cost
from tests.studies.compression.cuts import CUTS, FUSED, trained_as
from tests.studies.compression.failures import failures
from tests.studies.compression.making import fingerprint, make, models_of, read_record
from tests.studies.compression.padim import Padim
from tests.studies.compression.pareto import draw, front
from tests.studies.compression.rows import Figures, latency_rows, lost_most, merge
from tests.studies.compression.subjects import subject
from tests.studies.compression.table import markdown
from tests.studies.compression.timing import read_times, time_all
from tests.studies.compression.variants import BASE, Variant, random_description, variants
from tests.studies.peers.latency import Latencies, Latency
from tests.studies.peers.runners import open_runner

BEFORE = Figures(
    row="s-fused", words="S, fused", model="fused", run="part-1", data="part", seed=1, image_auroc=(0.99, 0.988),
    aupro=(0.9, 0.91), kinds={"scratch": (0.98, 0.98), "hole": (1.0, 0.996)}, cost=Cost(38.0, 8_000_000), lost=0.01,
)  # fmt: skip


def changed(**fields: object) -> Figures:
    return msgspec.structs.replace(BEFORE, **fields)


AFTER = changed(
    row="s-widths-50", words="S, hidden layers 50 %", model="widths-50", image_auroc=(0.99, 0.95),
    kinds={"scratch": (0.98, 0.9), "hole": (1.0, 0.99)}, cost=Cost(16.0, 4_000_000), broken=("image AUROC drops",),
)  # fmt: skip


def latency(model: str, ms: float) -> Latency:
    return Latency(
        model=model, engine_ms=Percentiles(ms, ms), ratio=ms / 80, fastest_ms=ms, fastest_ratio=ms / 80,
        prepare_ms=0.1,
    )  # fmt: skip


def test_the_rows_have_names_of_their_own_and_the_base_is_among_them() -> None:
    keys = [v.key for v in variants()]
    assert len(set(keys)) == len(keys) == len({v.words for v in variants()})
    assert BASE.split()[0] in keys


def test_a_cut_of_trained_nets_has_the_arithmetic_of_the_row_that_it_is_joined_to() -> None:
    known = {v.key: v for v in variants()}
    joined = 0
    for size, names in (("n", list(CUTS)), ("s", ["directions-64", "directions-32"])):
        nets = random_description(known[f"{size}-fused"])
        for name in names:
            if (own := known.get(f"{size}-{name}")) and (shape := CUTS[name].shape):
                # None of these depends on the directions' energy.
                gmac = shape_gmac(nets, shape(nets, (torch.ones(1), torch.ones(1))))
                assert gmac == pytest.approx(description_gmac(random_description(own)))
                joined += 1
    assert joined == 4


def test_all_directions_are_the_nets_and_fewer_are_fewer_channels() -> None:
    n = next(v for v in variants() if v.key == "n-fused")
    assert n.architecture is not None
    channels = n.architecture.teacher_channels
    image = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    whole, same, fewer = (
        fuse(random_description(Variant("x", "x", "fused", n.architecture, d)))
        for d in (None, (channels, channels), (channels // 2, channels // 4))
    )
    for a, b in zip(whole(image), same(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert fewer.difference_st.out_channels == channels // 2
    assert fewer.difference_ae.out_channels == channels // 4


def test_padim_measures_the_distance_of_each_place() -> None:
    torch.manual_seed(1)
    net = Padim(side=32).eval()
    seen: list[torch.Tensor] = []
    for stage in net.stages:
        stage.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        found = net(torch.rand(1, 3, 32, 32))
    assert found.shape == (1, 8, 8)
    assert [tuple(s.shape[1:]) for s in seen] == [(64, 8, 8), (128, 4, 4), (256, 2, 2)]
    row, column = 5, 2
    joined = torch.cat([s[0, getattr(net, f"chosen{i}"), row >> i, column >> i] for i, s in enumerate(seen)])
    place = row * 8 + column
    off = joined - net.mean[place, 0]
    assert len(off) == 100
    assert found[0, row, column].item() == pytest.approx(
        math.sqrt(off @ net.precision[place] @ off), rel=1e-4
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Variant]:
    """The smallest row, made in this process."""
    folder = tmp_path_factory.mktemp("models")
    variant = next(v for v in variants() if v.key == "n-widths-50")
    make(variant, "ours", folder)
    return folder, variant


def test_a_row_is_one_integer_graph_in_each_engine(made: tuple[Path, Variant]) -> None:
    folder, variant = made
    models = models_of(folder, variant)
    assert [m.name for m in models] == [f"n-widths-50 {e}" for e in ("ort", "openvino", "tflite")]
    batch = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    reference, *others = ([m.copy() for m in open_runner(model, folder, 1).infer(batch)] for model in models)
    for maps in others:
        for a, b in zip(reference, maps, strict=True):
            assert float(np.abs(a - b).max()) <= 0.03 * float(a.max())
    record = read_record(folder, variant, "ours")
    assert record is not None and record.cost is not None
    assert onnx_cost(onnx.load(folder / models[0].file)) == record.cost
    other = next(v for v in variants() if v.key == "n-fused")
    assert fingerprint(other) != fingerprint(variant)
    assert (
        read_record(
            folder, Variant(variant.key, variant.words, "fused", variant.architecture, (8, 8)), "ours"
        )
        is None
    )


def test_times_are_in_ratio_to_the_base(made: tuple[Path, Variant], tmp_path: Path) -> None:
    folder, variant = made
    ort, openvino, _ = models_of(folder, variant)
    for model in (ort, openvino):
        (tmp_path / model.file).parent.mkdir(exist_ok=True)
        (tmp_path / model.file).write_bytes((folder / model.file).read_bytes())
    times = time_all([msgspec.structs.replace(ort, name=BASE), openvino], tmp_path, rounds=2, threads=1)
    assert read_times(tmp_path) == times
    assert {t.model: t.ratio for t in times.models}[BASE] == 1.0
    assert set(latency_rows(times)["n-widths-50"]) == {"openvino"}
    (tmp_path / openvino.file).write_bytes(b"another model")
    left = read_times(tmp_path)
    assert left is not None and [t.model for t in left.models] == [BASE], (
        "times of what is gone are not shown"
    )
    (tmp_path / ort.file).unlink()
    assert read_times(tmp_path) is None


def test_the_table_joins_times_and_accuracy_by_row() -> None:
    times = Latencies(
        threads=2, rounds=3, base=BASE, load=0.5,
        models=(latency(BASE, 80), latency("s-fused openvino", 40), latency("padim ort fp32", 60)),
    )  # fmt: skip
    second = changed(run="part-2", seed=2, image_auroc=(0.97, 0.968))
    known = [
        ("s-plain", "S, plain", Cost(37.95, 8_060_000)), ("s-fused", "S, fused", Cost(38.5, 8_230_000)),
        ("padim", "PaDiM", None),
    ]  # fmt: skip
    rows = merge(known, latency_rows(times), [BEFORE, second, AFTER])
    assert [r.key for r in rows] == ["s-plain", "s-fused", "padim", "s-widths-50"]
    lines = markdown(rows, times, ["anomalib: not made"]).splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    fused, float_padim, cut = lines[3], lines[4], lines[5]
    deviation = math.sqrt(2) * 0.01
    assert f"| S, fused | 2 | 0.9780 ± {deviation:.4f} | -0.0020 |" in fused
    assert "| 38.50 | 8.23 | 40.0 (0.50) | - | - |" in fused and "0.0040 (hole, part-1)" in fused
    assert float_padim.startswith("| PaDiM, float | - |") and "60.0 (0.75)" in float_padim
    assert "0.0800 (scratch, part-1)" in cut and "| 1 of 1 | 16.00 | 4.00 |" in cut
    assert "- anomalib: not made" in lines
    assert lost_most([changed(kinds={})]) is None
    picture = draw(rows, "openvino")
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert draw(rows, "tflite") is None


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(10, 0.9, "a"), (20, 0.9, "b"), (20, 0.95, "c"), (5, 0.8, "d"), (30, 0.94, "e")]
    assert [p[2] for p in front(points)] == ["d", "a", "c"]


def test_a_kind_that_lost_is_named_and_one_that_did_not_is_not() -> None:
    (failure,) = failures([AFTER, BEFORE])
    assert (failure.kind, failure.figures.model) == ("scratch", "widths-50")
    assert failure.loss == pytest.approx(0.08)
    assert failures([AFTER]) == [], "without the uncut model there is nothing to compare with"
    assert failures([BEFORE, changed(model="plain", kinds={"scratch": (0.98, 0.5)})]) == [], (
        "nothing is cut there"
    )


def test_runs_that_were_trained_with_a_cut_are_rows_of_their_own(short_run: Path) -> None:
    own = open_run(short_run).nets.architecture
    assert trained_as(own, "n") == ("n", "n")
    assert trained_as(dataclasses.replace(own, shared_layers=1), "n") == ("n-shared-1", "n, conv1 shared")
    fewer = dataclasses.replace(own, teacher_channels=16, projected_from=64)
    assert trained_as(fewer, "n")[0] == "n-directions-16"


def test_a_measured_model_is_kept_until_the_run_or_the_effort_changes(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = subject(f"{short_run}={tmp_path / 'gone'}", tmp_path)
    effort = Effort(ranges="min-max", steps=0)
    made_by = repr((FUSED.key, FUSED.words, str(found.data), effort))
    found.keep(FUSED.key, made_by, BEFORE)
    assert list(measure(found, [FUSED], effort)) == [BEFORE]
    assert not capsys.readouterr().out
    found.keep("light", "by another effort", None)
    with pytest.raises(Exception, match="gone"):
        list(measure(found, [CUTS["light"]], effort))
    main(["-o", str(tmp_path), "--steps", "failures", "--models", "n-fused"])
    (rows,) = [json.loads((tmp_path / "compression.json").read_text())["rows"]]
    assert [r["key"] for r in rows] == ["n-fused", "s-fused"]
    assert "| S, fused | 1 | 0.9880 |" in (tmp_path / "compression.md").read_text()


def test_wrong_usage_is_refused(short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "out")]
    for arguments, word in (
        ([*out, "--steps", "make,nonsense"], "nonsense"),
        ([*out, "--models", "m-fused"], "m-fused"),
        ([*out, "--cuts", "halves"], "halves"),
        ([str(short_run), str(short_run), *out], "two runs are called short"),
        ([str(tmp_path), *out], "is not a run"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2 and word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="has no 's-plain openvino'"):
        main([*out, "--steps", "latency"])


@pytest.mark.study
def test_the_whole_program(short_run: Path, tmp_path: Path) -> None:
    main(
        [str(short_run), "-o", str(tmp_path), "--steps", "accuracy,failures", "--models", "n-fused",
         "--cuts", "plain-ort,fused,widths-50", "--ranges", "min-max", "--recovery", "2"]
    )  # fmt: skip
    fused, plain, cut = json.loads((tmp_path / "compression.json").read_text())["rows"]
    assert (fused["key"], plain["key"], cut["key"]) == ("n-fused", "n-plain-ort", "n-widths-50")
    assert cut["cost"]["gmac"] < fused["figures"][0]["cost"]["gmac"]
    assert (tmp_path / "runs" / "short" / "widths-50.onnx").is_file()
