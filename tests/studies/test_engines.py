"""The study of the engines: what is kept, what is done again, and what the table says of the aims."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from edge_ad.conversion import ConvertOptions
from tests.studies.engines import Pair, fingerprint, key, main
from tests.studies.engines_table import AIMS, Apart, Failure, Row, markdown

ROW = Row(
    category="part", target="ort", engine="onnxruntime", stand_in=False, auroc=(0.998, 0.996), aupro=(0.9, 0.91),
    good_map_correlation=0.996, worst_good_map_correlation=0.99, map_correlation=0.997, worst_map_correlation=0.98,
    score_correlation=0.999, flipped=1, images=6, in_float=(), ranges="mse", broken=(), forced=False,
    ms=(50.0, 20.0), load=0.5,
)  # fmt: skip


def changed(**fields: object) -> Row:
    return msgspec.structs.replace(ROW, **fields)


def test_aims_count_rows_at_the_limit_and_name_the_others() -> None:
    auroc, aupro, good, worst = AIMS
    rows = [ROW, changed(category="bad", auroc=(0.998, 0.9959)), changed(auroc=(None, None))]
    assert auroc.line(rows).endswith("1 of 2. Not: bad ort (0.0021)")
    assert aupro.line(rows).endswith("3 of 3")
    assert aupro.line([changed(aupro=(0.9, 0.8949))]).endswith("0 of 1. Not: part ort (0.0051)")
    assert good.line([ROW, changed(good_map_correlation=0.9949)]).endswith("1 of 2. Not: part ort (0.9949)")
    assert aupro.line([changed(aupro=(None, None))]).endswith("not measured")
    assert worst.line([ROW]).endswith("0 of 1. Not: part ort (0.9900)")


def test_the_table_is_whole_and_says_what_failed() -> None:
    rows: list[Row | Failure] = [
        ROW,
        changed(
            target="tflite", apart=Apart(0.04, 0.001, 0.2, 0, False), broken=("AUPRO drops",), forced=True
        ),
        changed(target="openvino", in_float=("decoder.0",)),
        Failure("part", "tensorrt", "is not installed"),
    ]
    lines = markdown(rows).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert sum(line.startswith("| part") for line in lines) == 3
    assert "| +0.0020 |" in lines[2] and "| -0.0100 |" in lines[2] and "| 0.40 |" in lines[2]
    text = "\n".join(lines)
    assert "of 2 conversions with every layer in INT8" in text and "Of 1 with layers in float" in text
    assert "- part tflite: AUPRO drops" in text and "- part tensorrt: is not installed" in text
    assert "0.03 of the largest value: 0 of 1. Not: part tflite (0.0400)" in text
    assert "holds the same graph: 0 of 1" in text


def test_a_finished_pair_is_kept_until_its_run_changes(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "part" / "run", tmp_path / "out"
    shutil.copytree(short_run, run)
    assert key(run) == "part" and key(short_run) == "short"
    record = out / "part" / "ort.json"
    record.parent.mkdir(parents=True)
    options = repr(ConvertOptions(target="ort", force=True, sensitivity=False))
    pair = Pair(run=fingerprint(run), options=options, mended_too=False, rows=(ROW,))
    record.write_bytes(msgspec.json.encode(pair))
    command = [str(run), "-o", str(out), "--targets", "ort"]
    main(command)
    assert [r["auroc"] for r in json.loads((out / "engines.json").read_text())] == [[0.998, 0.996]]
    assert "| part | ort |" in capsys.readouterr().out
    # Its images are gone: only a pair that is done again can notice.
    config = run / "config.json"
    fields = json.loads(config.read_text()) | {"data": str(tmp_path / "gone")}
    config.write_text(json.dumps(fields))
    main(command)
    (failed,) = json.loads((out / "engines.json").read_text())
    assert "gone" in failed["reason"]
    assert "- part ort: " in (out / "engines.md").read_text()


def test_wrong_usage_is_refused(short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "out")]
    for arguments, word in (
        ([str(short_run), *out, "--targets", "ort,nonsense"], "nonsense"),
        ([str(short_run), str(short_run), *out], "two runs are called short"),
        ([str(tmp_path), *out], "is not a run"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2 and word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.study
def test_the_whole_program(short_run: Path, tmp_path: Path) -> None:
    main([str(short_run), "-o", str(tmp_path), "--targets", "openvino,ort", "--threads", "1"])
    ort, openvino = json.loads((tmp_path / "engines.json").read_text())
    assert (ort["target"], openvino["target"]) == ("ort", "openvino")
    assert ort["apart"] is None and openvino["apart"]["same_file"]
