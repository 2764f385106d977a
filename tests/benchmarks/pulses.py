"""How punctual pulses are while inference takes every core.

    python -m tests.benchmarks.pulses [BUNDLE] [--pulses 10000] [--json] [--only NAME ...]

A scorer process runs inference on all cores without a pause, triggers parts and never gives a verdict, so every part is
rejected at a time that is known: its trigger's time plus the travel. Two outputs are driven: a mock one, whose log tells
when each command was given, and a relay on a pseudo-terminal, whose other end is read by a process of higher real-time
priority (``bytes``: on the way, a pseudo-terminal passes data through a kernel thread of ordinary priority, which a real
port does not). That process also wakes up every few milliseconds by itself and tells how late that was: ``machine`` is what
no program on it does better. The guard is

``process, SCHED_FIFO``   as it is where the priority may be had;
``process, ordinary``     as it is in a container without CAP_SYS_NICE (and without a better nice value);
``process, nice scorer``  the same, and the scorer is started with ``nice -n 10``;
``thread``                inside the scorer (:class:`edge_ad_runtime.guard.link.ThreadGuard`).

Without BUNDLE inference is a convolutional graph of about the work of size ``n``, with the runtime's own preprocessing and
scoring around it. Other programs on the machine are in the figures, and so is the host of a virtual machine (``steal %`` of
one core): compare the rows with each other and with ``machine``. ``given %`` are the pulses that began before the next one
was due; the others count as infinitely late in the percentiles.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import tty
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import GuardParts
from edge_ad_runtime.guard.link import GuardLink, ProcessGuard, ThreadGuard
from edge_ad_runtime.guard.messages import Alive, SoftTrigger
from edge_ad_runtime.inspector import open_inspector
from edge_ad_runtime.outputs import parse_output
from edge_ad_runtime.preprocess import PreprocessSpec, preprocess
from edge_ad_runtime.tracking.tracker import TrackSettings

NAMES = ("process, SCHED_FIFO", "process, ordinary", "process, nice scorer", "thread")
MS = 1_000_000
TRAVEL_MS, PERIOD_MS, PULSE_MS = 1500.0, 14.0, 10.0
_FIFO_READER = 60
_ALARM_NS = 7_300_000


class Setup(msgspec.Struct, frozen=True):
    """What a scorer process is told."""

    port: str
    log: str
    state: str
    pulses: int
    kind: str
    bundle: str | None = None


def burning_graph() -> bytes:
    """Six convolutions of 64 channels: some tens of milliseconds on two cores."""
    rng = np.random.default_rng(0)
    channels, layers = 64, 6
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    weights = []
    for i in range(layers):
        shape = (channels, 3 if i == 0 else channels, 3, 3)
        weights.append(numpy_helper.from_array(rng.normal(0, 0.01, shape).astype(np.float32), f"w{i}"))
        stride = [2, 2] if i == 0 else [1, 1]
        nodes.append(
            helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1] * 4, strides=stride)
        )
    graph = helper.make_graph(
        nodes,
        "burning",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 256, 256, 3])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, [1, channels, 128, 128])],
        weights,
    )
    encoded: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return encoded


class Burner:
    """Inference as a scorer does it, on all cores."""

    def __init__(self, bundle: str | None) -> None:
        self._image = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
        self._inspector = None if bundle is None else open_inspector(Path(bundle))
        if self._inspector is None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = os.cpu_count() or 1
            self._session = ort.InferenceSession(burning_graph(), options, providers=["CPUExecutionProvider"])

    def score(self) -> float:
        if self._inspector is not None:
            return self._inspector.inspect(self._image).score
        batch = preprocess(self._image, PreprocessSpec(height=256, width=256))
        result: npt.NDArray[np.float32] = self._session.run(None, {"image": batch})[0]
        return float(result[0].max())


def guard_config(setup: Setup) -> GuardConfig:
    track = TrackSettings(
        travel=TRAVEL_MS * MS, min_gap=2 * MS, lead_ns=0, reach_ns=round(PULSE_MS * MS), ahead_ns=3 * MS,
        debounce_ns=0, max_in_flight=1000,
    )  # fmt: skip
    priority = 20 if setup.kind == NAMES[0] else 0
    outputs = (
        f"mock://x?pulse_ms={PULSE_MS:g}&log={setup.log}",
        f"serial://{setup.port}?pulse_ms={PULSE_MS:g}",
    )
    return GuardConfig(
        line="pulses",
        outputs=outputs,
        track=track,
        reject_unknown=False,
        priority=priority,
        silence_ns=10**10,
    )


def scorer(setup: Setup) -> None:
    """The scorer process: inference in the main thread, triggers between two images; prints when each pulse is due.

    Triggers are a while old when they are told, as those of a photo-eye are not; the travel leaves time enough.
    """
    config = guard_config(setup)
    link: GuardLink
    if setup.kind == "thread":
        link = ThreadGuard(config, GuardParts([parse_output(url) for url in config.outputs]))
    else:
        link = ProcessGuard(config, Path(setup.state))
    realtime = isinstance(link, ProcessGuard) and link.realtime
    link.listen(lambda message: None)
    burner = Burner(setup.bundle)
    for _ in range(3):
        burner.score()
    images, told, begin = 0, 0, time.monotonic_ns()
    cpu = time.process_time()
    triggers: list[int] = []
    while told < setup.pulses:
        burner.score()
        images += 1
        link.tell(Alive(images, True))
        while told < setup.pulses and (at := begin + round(told * PERIOD_MS * MS)) <= time.monotonic_ns():
            link.tell(SoftTrigger(at))
            triggers.append(at)
            told += 1
    seconds = (time.monotonic_ns() - begin) / 1e9
    cpu = time.process_time() - cpu
    report = link.finish(2.0)
    assert report.parts == setup.pulses, report
    json.dump(
        {
            "due": [t + round(TRAVEL_MS * MS) for t in triggers],
            "realtime": realtime,
            "ms_per_image": 1e3 * seconds / images,
            "cores": cpu / seconds,
            "missed": sum(o.missed for o in report.outputs),
        },
        sys.stdout,
    )


def reader(master: int) -> None:
    """The board's end, a process of high priority: prints when each command was there, until the scorer's has gone."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_READER))
    except OSError:
        print("the reader has no real-time priority: its own delays are in the figures", file=sys.stderr)
    times: list[tuple[int, bool]] = []
    machine: list[int] = []
    alarm = time.monotonic_ns() + _ALARM_NS
    while True:
        ready = select.select([master, 0], [], [], max(0, alarm - time.monotonic_ns()) / 1e9)[0]
        now = time.monotonic_ns()
        if now >= alarm:
            machine.append(now - alarm)
            alarm = now + _ALARM_NS
        if master in ready:
            data = os.read(master, 4096)
            now = time.monotonic_ns()
            # "on" and "off" differ in the third byte.
            times.extend((now, data[i + 2] == 1) for i in range(0, len(data) - 3, 4))
        elif 0 in ready:
            break
    json.dump({"levels": times, "machine": machine}, sys.stdout)


def measure(kind: str, pulses: int, bundle: str | None) -> dict[str, Any]:
    """One row: milliseconds late, from when a pulse was due to when its bytes were there."""
    master, side = os.openpty()
    tty.setraw(side)
    me = [sys.executable, "-m", "tests.benchmarks.pulses"]
    with tempfile.TemporaryDirectory() as folder:
        listening = subprocess.Popen(
            [*me, "--reader", str(master)], pass_fds=[master], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        log = Path(folder) / "log.jsonl"
        setup = Setup(os.ttyname(side), str(log), folder, pulses, kind, bundle)
        nice = ["nice", "-n", "10"] if kind == NAMES[2] else []
        load, stolen, begin = os.getloadavg()[0], steal_s(), time.monotonic()
        done = subprocess.run(
            [*nice, *me, "--scorer", msgspec.json.encode(setup).decode()], stdout=subprocess.PIPE, check=True
        )
        stolen = (steal_s() - stolen) / (time.monotonic() - begin)
        time.sleep(0.2)
        output, _ = listening.communicate()
        os.close(master)
        os.close(side)
        commands = [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]
    said, heard = json.loads(done.stdout), json.loads(output)
    due = np.array(said.pop("due"))
    begun = lateness(due, [(c["t_monotonic_ns"], c["active"]) for c in commands])
    bytes_ = lateness(due, heard["levels"])
    machine = np.array(heard["machine"]) / 1e6
    return {
        "guard": kind,
        "load": load,
        **said,
        **begun,
        "bytes_p99.9_ms": bytes_["p99.9_ms"],
        "bytes_worst_ms": bytes_["worst_ms"],
        "machine_p99.9_ms": float(np.quantile(machine, 0.999)),
        "machine_worst_ms": float(machine.max()),
        "steal_percent": 100 * stolen,
    }


def steal_s() -> float:
    """Seconds, over all processors, that a virtual machine's host took for itself (man 5 proc, /proc/stat)."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def lateness(due: npt.NDArray[np.int64], levels: list[tuple[int, bool]]) -> dict[str, float]:
    """How long after its deadline each pulse began: the latest deadline that had come is the one it is for. One that did
    not come before the next was due counts as later than all others (infinity)."""
    edges = zip([(0, False), *levels], levels, strict=False)
    on = np.array([t for (_, was), (t, now) in edges if now and not was])
    index = np.searchsorted(due, on, side="right") - 1
    if not len(on) or index.min() < 0:
        raise SystemExit("pulses came before they were due, or not at all")
    late = np.full(len(due), np.inf)
    # The first one for a deadline; reversed, for the last assignment stays.
    late[index[::-1]] = ((on - due[index]) / 1e6)[::-1]
    given = np.isfinite(late)
    p50, p99, p999 = (float(q) for q in np.quantile(late, [0.5, 0.99, 0.999], method="higher"))
    return {
        "given_percent": 100 * float(given.mean()),
        "p50_ms": p50,
        "p99_ms": p99,
        "p99.9_ms": p999,
        "worst_ms": float(late[given].max()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    columns = {
        "given %": "given_percent", "p50 ms": "p50_ms", "p99 ms": "p99_ms", "p99.9 ms": "p99.9_ms",
        "worst ms": "worst_ms", "bytes p99.9": "bytes_p99.9_ms", "bytes worst": "bytes_worst_ms",
        "machine p99.9": "machine_p99.9_ms", "machine worst": "machine_worst_ms", "image ms": "ms_per_image", "steal %": "steal_percent",
        "load": "load",
    }  # fmt: skip
    lines = [" | ".join(["| guard", *columns]) + " |", "|" + "---|" * (len(columns) + 1)]
    for row in rows:
        refused = row["guard"] == NAMES[0] and not row["realtime"]
        cells = [f"{row[key]:.2f}" for key in columns.values()]
        lines.append(" | ".join([f"| {row['guard']}{' (refused)' if refused else ''}", *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--pulses", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scorer", help=argparse.SUPPRESS)
    parser.add_argument("--reader", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scorer is not None:
        scorer(msgspec.json.decode(options.scorer, type=Setup))
        return
    if options.reader is not None:
        reader(options.reader)
        return
    rows = [measure(kind, options.pulses, options.bundle) for kind in options.only]
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
