"""``edge-ad tune``: which candidates there are, which one is taken, where it is kept, and when it is not used."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_ad.cli.tune import _table
from edge_ad.cli.tuned import tuned_options
from edge_ad_runtime.bundle import Bundle, GoldenSample, open_bundle, write_bundle
from edge_ad_runtime.calibration import encode_calibration
from edge_ad_runtime.cores import cpu_model, usable_cores
from edge_ad_runtime.engines import EngineOptions, engine_name
from edge_ad_runtime.engines.options import OpenVinoOptions, OrtOptions, TfliteOptions
from edge_ad_runtime.errors import BundleError, InputError
from edge_ad_runtime.stopping import StopRequest
from edge_ad_runtime.tuning.candidates import (
    Layout,
    combination,
    first_candidates,
    thread_counts,
    variants,
)
from edge_ad_runtime.tuning.choice import Criterion, better_than, choose, timings
from edge_ad_runtime.tuning.job import tune
from edge_ad_runtime.tuning.measure import Measured, Stopped, measure
from edge_ad_runtime.tuning.store import Tuning, find_tuning, tuning_path, write_tuning
from tests.evaluation.conftest import call

ONE, TWO, FOUR = (EngineOptions(threads=n) for n in (1, 2, 4))
PLAIN = EngineOptions()
QUIET = EngineOptions(threads=2, ort=OrtOptions(spinning=False))


# --- candidates -------------------------------------------------------------------------------------------------------


def test_thread_counts_reach_every_size_of_machine() -> None:
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(6) == [1, 2, 3, 4, 5, 6]
    assert thread_counts(8) == [1, 2, 3, 4, 5, 6, 8]
    assert thread_counts(20) == [1, 2, 3, 4, 5, 6, 8, 12, 16, 20]


def test_candidates_follow_the_machine() -> None:
    alike = Layout((0, 1), (0, 1), (0, 1))
    assert first_candidates("ort", alike) == [PLAIN, ONE, TWO]
    # All cores is LiteRT's default.
    assert first_candidates("tflite", alike) == [PLAIN, ONE]
    assert variants("ort", TWO, alike) == [
        QUIET,
        EngineOptions(threads=2, ort=OrtOptions(arena=False)),
    ]
    assert variants("openvino", TWO, alike) == [
        EngineOptions(threads=2, openvino=OpenVinoOptions(pinning=False))
    ]
    assert variants("tflite", ONE, alike) == [
        EngineOptions(threads=1, tflite=TfliteOptions(latest_kernels=True))
    ]
    hybrid = Layout(tuple(range(6)), (0, 2, 4, 5), (0, 1, 2, 3))
    found = variants("openvino", EngineOptions(threads=6), hybrid)
    assert EngineOptions(threads=4, cpus=(0, 2, 4, 5)) in found
    assert EngineOptions(threads=4, cpus=(0, 1, 2, 3)) in found
    assert EngineOptions(threads=6, openvino=OpenVinoOptions(hyper_threading=True)) in found
    assert EngineOptions(threads=6, openvino=OpenVinoOptions(core_type="performance")) in found
    assert EngineOptions(threads=2, cpus=(0, 1, 2, 3)) in variants("ort", TWO, hybrid)


def test_what_is_better_is_tried_together() -> None:
    lean = EngineOptions(threads=2, ort=OrtOptions(arena=False))
    fast = EngineOptions(threads=2, cpus=(0, 1))
    assert combination(TWO, [QUIET, lean, fast]) == EngineOptions(
        threads=2, cpus=(0, 1), ort=OrtOptions(spinning=False, arena=False)
    )
    # The better one's cores count where two name some.
    assert combination(TWO, [fast, EngineOptions(threads=2, cpus=(2, 3)), lean]) == EngineOptions(
        threads=2, cpus=(0, 1), ort=OrtOptions(arena=False)
    )
    assert combination(TWO, []) is None
    assert combination(TWO, [QUIET]) is None


# --- the choice -------------------------------------------------------------------------------------------------------


def taking(options: EngineOptions, *ms: float) -> Measured:
    return Measured(options, tuple(round(value * 1e6) for value in ms))


def steady(options: EngineOptions, ms: float, rounds: int = 40) -> Measured:
    return taking(options, *([ms] * rounds))


@pytest.mark.parametrize("by", ["median", "p99"])
def test_the_fastest_is_taken_and_of_equals_the_one_with_fewer_threads(by: Criterion) -> None:
    assert choose([steady(PLAIN, 10), steady(ONE, 12), steady(TWO, 7), steady(FOUR, 6)], by, 4) == FOUR
    # 1 % is no difference.
    assert choose([steady(PLAIN, 10), steady(ONE, 12), steady(TWO, 6.06), steady(FOUR, 6)], by, 4) == TWO
    assert choose([steady(PLAIN, 6), steady(ONE, 12), steady(FOUR, 6)], by, 4) == PLAIN
    assert choose([steady(PLAIN, 6), steady(FOUR, 6)], by, 8) == FOUR
    # With as many threads, the one nearer to the defaults.
    assert choose([steady(PLAIN, 10), steady(QUIET, 5), steady(TWO, 5.05)], by, 4) == TWO
    # 10 % is one, however few rounds and however much they scatter.
    assert choose([steady(PLAIN, 10), steady(ONE, 6.6), steady(TWO, 6)], by, 4) == TWO


def test_drift_of_the_machine_decides_nothing() -> None:
    """Each round three times as slow as the one before at most: only the ratio within a round tells."""
    drift = np.exp(np.random.default_rng(0).uniform(0, np.log(3), 41))
    plain, one, two = (taking(o, *(ms * drift)) for o, ms in ((PLAIN, 10.0), (ONE, 9.0), (TWO, 8.0)))
    assert choose([plain, one, two], "median", 2) == TWO
    table = timings([plain, one, two], "median")
    assert [round(t.ratio or 0, 3) for t in table] == [1, 0.9, 0.8]


def test_a_failed_candidate_is_never_taken() -> None:
    failed = Measured(ONE, failed="the maps are others")
    measured = [steady(PLAIN, 10), failed, steady(TWO, 8)]
    assert choose(measured, "median", 2) == TWO
    assert better_than(PLAIN, measured, "median") == [TWO]
    assert [t.failed for t in timings(measured, "median")] == [None, "the maps are others", None]
    with pytest.raises(BundleError, match="does not run here: no memory"):
        timings([Measured(PLAIN, failed="no memory"), steady(ONE, 1)], "median")


def test_p99_is_another_question_than_the_median() -> None:
    usual = [*[5.0] * 97, 50, 50, 50]
    measured = [steady(PLAIN, 10, 100), taking(TWO, *usual), steady(ONE, 6, 100)]
    assert choose(measured, "median", 2) == TWO
    assert choose(measured, "p99", 2) == ONE
    assert [t.p99_ms for t in timings(measured, "p99")] == [10, 50, 6]
    assert [t.ratio for t in timings(measured, "p99")] == [1, 5, 0.6]


# --- measuring --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def children() -> set[str]:
    """Processes that this one has started and that live."""
    return {
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text(encoding="ascii").split()
    }


def test_candidates_are_measured_in_processes_that_end(bundle: Bundle) -> None:
    before = children()
    absent = EngineOptions(cpus=(4000,))
    runs: list[int] = []
    plain, pinned, none = measure(
        bundle,
        [PLAIN, EngineOptions(threads=1, cpus=usable_cores()[:1]), absent],
        3,
        StopRequest(),
        lambda: runs.append(1),
    )
    assert len(plain.times_ns) == len(pinned.times_ns) == 3
    assert min(*plain.times_ns, *pinned.times_ns) > 0
    assert (none.options, none.times_ns) == (absent, ())
    assert none.failed is not None
    assert "4000" in none.failed
    assert len(runs) == 9
    assert children() == before


def other_golden(bundle: Bundle, path: Path, samples: Sequence[GoldenSample]) -> Bundle:
    """The bundle with other golden samples."""
    write_bundle(
        path,
        msgspec.structs.replace(bundle.manifest, files={}),
        bundle.model,
        encode_calibration(msgspec.structs.replace(bundle.calibration, bundle="")),
        tuple(samples),
        {},
    )
    return open_bundle(path)


def test_maps_that_are_not_the_golden_ones_fail(bundle: Bundle, tmp_path: Path) -> None:
    sample = bundle.golden[0]
    wrong = other_golden(
        bundle, tmp_path / "b.edgead", [msgspec.structs.replace(sample, map_ae=sample.map_ae * 1.01)]
    )
    (only,) = measure(wrong, [PLAIN], 2, StopRequest())
    assert only.failed is not None
    assert "golden sample 0 deviates" in only.failed
    with pytest.raises(BundleError, match="golden sample 0 deviates"):
        tune(wrong, rounds=2)
    with pytest.raises(BundleError, match="has no golden samples"):
        tune(other_golden(bundle, tmp_path / "c.edgead", []), rounds=2)


def test_a_stop_ends_all_processes(bundle: Bundle) -> None:
    before, stop = children(), StopRequest()
    with pytest.raises(Stopped):
        measure(bundle, [ONE], 1000, stop, stop.request)
    assert children() == before
    with pytest.raises(InputError, match="two rounds"):
        tune(bundle, rounds=1)


# --- what is kept -----------------------------------------------------------------------------------------------------


def tuning_of(opened: Bundle, /, **changes: object) -> Tuning:
    values: dict[str, object] = {
        "bundle": opened.id, "engine": engine_name("ort"), "cpu": cpu_model(), "cores": len(usable_cores()),
        "options": ONE, "by": "median", "rounds": 3, "candidates": tuple(timings([steady(PLAIN, 1)], "median")),
        "created": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return Tuning(**(values | changes))  # type: ignore[arg-type]


def test_a_tuning_is_found_again(bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_tuning(tmp_path / "none", bundle) is None
    path = write_tuning(tmp_path / "new" / "state", tuning_of(bundle))
    assert path == tuning_path(tmp_path / "new" / "state", bundle.id, len(usable_cores()))
    assert find_tuning(tmp_path / "new" / "state", bundle) == tuning_of(bundle)
    assert not caplog.records
    said: list[str] = []
    assert tuned_options(bundle, None, tmp_path / "new" / "state", said.append) == ONE
    assert len(said) == 1
    assert "2026-01-02" in said[0]
    assert "1 thread" in said[0]
    # A number of threads that somebody gives wins.
    assert tuned_options(bundle, 2, tmp_path / "new" / "state", said.append) is None
    assert len(said) == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"engine": "onnxruntime 0.1"}, "was made with onnxruntime 0.1, this is onnxruntime"),
        ({"cpu": "Another CPU"}, "of Another CPU"),
        ({"cores": 512}, "was made on 512 cores"),
        ({"bundle": "0" * 64}, "is of another bundle"),
        ({"options": EngineOptions(cpus=(4000,))}, "names cores that this process may not use"),
        ({"options": EngineOptions(threads=1000)}, "asks for 1000 threads"),
    ],
)
def test_a_tuning_for_something_else_is_not_used(
    changes: dict[str, object], why: str, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tuning_path(tmp_path, bundle.id, len(usable_cores()))
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(tuning_of(bundle, **changes)))
    with caplog.at_level(logging.WARNING):
        assert find_tuning(tmp_path, bundle) is None
    (record,) = caplog.records
    assert why in record.getMessage()
    assert str(path) in record.getMessage()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"format": "edge-ad tuning"}', b'{"options": {"threads": -1}}'],
)
def test_a_damaged_tuning_is_not_used(
    content: bytes, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tuning_path(tmp_path, bundle.id, len(usable_cores()))
    path.parent.mkdir()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert find_tuning(tmp_path, bundle) is None
    assert "is damaged" in caplog.records[0].getMessage()


def test_values_out_of_range_in_a_tuning_are_damage(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tuning(tmp_path, tuning_of(bundle))
    whole = path.read_bytes()
    for before, after in (
        (b'"threads": 1', b'"threads": 0'),
        (b'"spinning": true', b'"spinning": 3'),
        (b'"cpus"', b'"cpu"'),
    ):
        assert before in whole
        path.write_bytes(whole.replace(before, after))
        assert find_tuning(tmp_path, bundle) is None
    assert [("is damaged" in r.getMessage()) for r in caplog.records] == [True] * 3
    path.unlink()
    path.mkdir()
    assert find_tuning(tmp_path, bundle) is None
    assert "cannot be read" in caplog.records[-1].getMessage()


def test_a_tuning_for_other_cores_is_told_of(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tuning(tmp_path, tuning_of(bundle, cores=500))
    assert find_tuning(tmp_path, bundle) is None
    assert (
        f"was tuned for 500 cores, this process has {len(usable_cores())}" in caplog.records[0].getMessage()
    )


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_measures_and_keeps_one_file(tiny_bundle: Path, tmp_path: Path) -> None:
    core = str(usable_cores()[0])
    command = [
        sys.executable, "-c", "from edge_ad.cli import main; main()", "tune", str(tiny_bundle),
        "--rounds", "2", "--by", "p99", "--cpus", core, "--state", str(tmp_path / "new"), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    file = Path(got["file"])
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [file]
    tuning = msgspec.json.decode(file.read_bytes(), type=Tuning)
    bundle = open_bundle(tiny_bundle)
    assert (tuning.bundle, tuning.engine, tuning.cpu) == (bundle.id, engine_name("ort"), cpu_model())
    assert (tuning.cores, tuning.rounds, tuning.by) == (1, 2, "p99")
    assert tuning.options == msgspec.convert(got["options"], EngineOptions)
    options = [t.options for t in tuning.candidates]
    assert options[:2] == [PLAIN, ONE]
    assert len(options) == len(set(options)) >= 4
    assert all(t.failed is None and t.p50_ms is not None and t.p50_ms > 0 for t in tuning.candidates)
    lines = _table(tuning).splitlines()
    assert "on 1 cores of" in lines[0]
    assert "p99 ratio" in lines[1]
    (marked,) = (line for line in lines if line.startswith("*"))
    assert marked[2:].startswith(tuning.options.words)


def test_other_verbs_use_it(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AD_STATE", str(tmp_path))
    file = write_tuning(tmp_path, tuning_of(open_bundle(tiny_bundle)))
    used = call("verify", tiny_bundle)
    assert used.returncode == 0
    assert used.stderr.count("engine tuned on 2026-01-02") == 1
    assert "engine tuned" not in call("verify", tiny_bundle, "--threads", "1").stderr
    timed = call("bench", tiny_bundle, "--rounds", "2", "--json")
    assert json.loads(timed.stdout)["options"][0]["threads"] == 1
    file.write_text("{")
    damaged = call("verify", tiny_bundle)
    assert damaged.returncode == 0, damaged.stderr
    assert "engine tuned" not in damaged.stderr
    reset = call("tune", tiny_bundle, "--reset", "--json")
    assert json.loads(reset.stdout)["removed"] == [str(file)]
    assert not file.exists()
    assert "was not tuned" in call("tune", tiny_bundle, "--reset").stdout


def test_ctrl_c_leaves_everything_as_it_was(tiny_bundle: Path, tmp_path: Path) -> None:
    kept = write_tuning(tmp_path, tuning_of(open_bundle(tiny_bundle)))
    before = kept.read_bytes()
    command = [
        sys.executable, "-c", "from edge_ad.cli import main; main()",
        "tune", str(tiny_bundle), "--rounds", "100000", "--state", str(tmp_path),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until = time.monotonic() + 60
        # Its first candidate is there, so it listens to signals.
        while not task.read_text(encoding="ascii").split() and time.monotonic() < until:
            time.sleep(0.02)
        workers = task.read_text(encoding="ascii").split()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "nothing was changed" in err
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert kept.read_bytes() == before
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [kept]


def test_wrong_usage_and_what_cannot_be(tiny_bundle: Path, tmp_path: Path) -> None:
    assert call("tune", tiny_bundle, "--cpus", "1-0").returncode == 2
    assert call("tune", tiny_bundle, "--rounds", "1").returncode == 2
    absent = call("tune", tiny_bundle, "--cpus", "4000", "--state", tmp_path)
    assert absent.returncode == 1
    assert "4000" in absent.stderr
    assert os.sched_getaffinity(0) == set(usable_cores())
    missing = call("tune", tmp_path / "none.edgead")
    assert missing.returncode == 1
    assert "there is no such bundle" in missing.stderr
