"""The study of the peers without the peers: the plain graph, timing, judging and the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from edge_ad.conversion import ImageSets
from edge_ad.data import read_dataset
from edge_ad.nets.model import normalize, to_tensor
from edge_ad.run_folder import Run, open_run
from tests.studies.peers.__main__ import main
from tests.studies.peers.accuracy import REFERENCE, Accuracy, Judge, read_test_set
from tests.studies.peers.latency import BASE, Latencies, time_models
from tests.studies.peers.models import Made, Model, read_made, write_made
from tests.studies.peers.plain import INPUT, OUTPUTS, export_plain, float_input
from tests.studies.peers.table import markdown


def _model(name: str, file: Path, precision: str = "fp32") -> Model:
    return Model(
        name=name, graph="plain", engine="ort", precision="int8" if precision == "int8" else "fp32",
        tool="torch.onnx", file=file.name, bytes=file.stat().st_size,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(short_run: Path) -> Run:
    return open_run(short_run)


@pytest.fixture(scope="module")
def plain(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    onnx.save(export_plain(run.nets), path)
    return path


def test_the_plain_graph_computes_what_the_nets_do(run: Run, plain: Path) -> None:
    operators = [n.op_type for n in onnx.load(plain).graph.node]
    assert operators.count("Sub") >= 3, "nothing may be folded away here"
    session = ort.InferenceSession(plain, providers=["CPUExecutionProvider"])
    height, width = run.nets.input_size
    batch = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    with torch.inference_mode():
        expected = run.nets(normalize(to_tensor(batch)))
    for got, want in zip(session.run(OUTPUTS, {INPUT: float_input(batch)}), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3)


def test_made_models_come_back(tmp_path: Path, plain: Path) -> None:
    made = Made((_model("a", plain),), "b: is not installed")
    write_made(tmp_path, "ort", made)
    assert read_made(tmp_path) == {"ort": made}


def test_times_are_of_every_model_and_relative_to_the_base(plain: Path, run: Run) -> None:
    spec = run.config.preprocess
    batch = np.zeros((1, spec.height, spec.width, 3), np.uint8)
    models = [_model("other", plain), _model(BASE, plain)]
    result = time_models(models, plain.parent, batch, rounds=3, threads=1)
    assert [t.model for t in result.models] == ["other", BASE]
    assert result.models[1].ratio == 1.0
    assert all(0 < t.engine_ms.p50 <= t.engine_ms.p99 for t in result.models)


def test_a_float_graph_is_judged_equal_to_the_nets_and_a_broken_one_is_not(
    run: Run, plain: Path, parts: Path
) -> None:
    dataset = read_dataset(parts)
    held_out = tuple(i.path for i in dataset.test if not i.defect) * 2
    images = read_test_set(run, dataset, ImageSets((), held_out, ()))
    judge = Judge(run, images)
    (same,) = judge.judge(_model("same", plain), plain.parent)
    assert same.quantiles == "own" and same.flipped == 0
    assert same.worst_map_correlation_all == pytest.approx(1, abs=1e-6)
    assert same.image_auroc == judge.reference().image_auroc
    broken = onnx.load(plain)
    weight = next(i for i in broken.graph.initializer if len(i.dims) == 4)
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * np.float32(-1)).tobytes()
    path = plain.with_name("broken.onnx")
    onnx.save(broken, path)
    own, shipped = judge.judge(_model("broken", path, "int8"), path.parent)
    assert (own.quantiles, shipped.quantiles) == ("own", "float")
    assert own.worst_map_correlation_all < 0.99


def test_the_table_has_a_row_for_each_model_and_names_what_is_missing(plain: Path) -> None:
    figures = Accuracy(
        model="plain", quantiles="own", image_auroc=0.9876, aupro=None, map_correlation_good=0.99,
        worst_map_correlation_good=0.9, map_correlation_all=0.98, worst_map_correlation_all=0.8,
        score_correlation=0.97, flipped=2, false_rejects=1, escapes=0,
    )  # fmt: skip
    made = {
        "ort": Made((_model("plain", plain), _model("untested", plain))),
        "litert": Made((), "No module named 'x'"),
    }
    latencies = Latencies(threads=2, rounds=3, base="plain", load=0.0, models=())
    lines = markdown("title", made, [figures], latencies).splitlines()
    width = lines[2].count("|")
    (row,) = (line for line in lines if line.startswith("| plain "))
    assert "0.9876" in row and "0.9900 (0.9000)" in row
    (untested,) = (line for line in lines if line.startswith("| untested "))
    assert row.count("|") == untested.count("|") == width
    assert any("litert" in line and "No module named 'x'" in line for line in lines)


def test_a_wrong_step_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", "data", "-o", str(tmp_path), "--steps", "ort,nonsense"])
    assert stopped.value.code == 2 and "nonsense" in capsys.readouterr().err


def test_the_whole_program_with_nothing_made_but_the_plain_graph(
    short_run: Path, parts: Path, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / plain.name).write_bytes(plain.read_bytes())
    write_made(tmp_path, "ort", Made((_model(BASE, plain),)))
    main(
        [str(short_run), str(parts), "-o", str(tmp_path), "--steps", "accuracy,latency", "--rounds", "1",
         "--threads", "1"]
    )  # fmt: skip
    text = (tmp_path / "peers.md").read_text()
    assert REFERENCE in text and f"| {BASE} |" in text
    assert (tmp_path / "peers.json").is_file()
