"""The guard process and its link: who may talk to it, what it survives, how it is found and started."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_ad_runtime.clock import MonotonicClock
from edge_ad_runtime.errors import OutputError
from edge_ad_runtime.guard import core
from edge_ad_runtime.guard import link as link_module
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import Guard, GuardParts
from edge_ad_runtime.guard.link import ProcessGuard, ThreadGuard
from edge_ad_runtime.guard.messages import (
    LONGEST_TEXT,
    MAX_PACKET,
    PROTOCOL,
    Alive,
    Ask,
    Finish,
    FromGuard,
    Hello,
    Notice,
    PartSeen,
    PartVerdict,
    Refused,
    Report,
    SoftTrigger,
    ToGuard,
    Welcome,
    sendable,
)
from edge_ad_runtime.guard.process import SOCKET
from edge_ad_runtime.outputs import parse_output
from edge_ad_runtime.outputs.mock import MockConfig
from edge_ad_runtime.tracking.tracker import Settled
from edge_ad_runtime.verdict import Fault, Verdict
from tests.line.guarded import MS, GuardedLine, alive, track, wait_until

ON, OFF = True, False


@pytest.fixture
def line(tmp_path: Path) -> Iterator[GuardedLine]:
    line = GuardedLine(tmp_path)
    yield line
    line.close()


class RawScorer:
    """A scorer that says what no decent one would."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(10)
        self.decode = msgspec.msgpack.Decoder(FromGuard).decode

    @classmethod
    def at(cls, line: GuardedLine) -> RawScorer:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.connections.append(connection)
        connection.connect(os.fspath(line.state / "lines" / "line" / SOCKET))
        return cls(connection)

    def say(self, message: ToGuard) -> None:
        self.socket.send(msgspec.msgpack.encode(message))

    def hear(self) -> FromGuard | None:
        try:
            packet = self.socket.recv(MAX_PACKET)
        except ConnectionError:
            return None
        return self.decode(packet) if packet else None

    def hear_of(self, kind: type[Any]) -> Any:
        """The next message of a kind."""
        while not isinstance(message := self.hear(), kind):
            assert message is not None, "the guard hung up"
        return message

    def hello(self, protocol: int = PROTOCOL) -> FromGuard | None:
        self.say(Hello(protocol, os.getpid()))
        return self.hear()


@dataclass
class Heard:
    """What a link has told."""

    messages: list[FromGuard] = field(default_factory=list)

    def __call__(self, message: FromGuard) -> None:
        self.messages.append(message)

    def of(self, kind: type[Any]) -> list[Any]:
        return [m for m in self.messages if isinstance(m, kind)]


def start(line: GuardedLine, **changes: Any) -> tuple[ProcessGuard, Heard]:
    link, heard = ProcessGuard(line.config(**changes), line.state), Heard()
    line.links.append(link)
    line.guard()
    link.listen(heard)
    link.tell(Alive(0, True))
    return link, heard


def abandoned(line: GuardedLine, **changes: Any) -> None:
    """A guard whose scorer is gone."""
    code = (
        "import sys, msgspec, pathlib; from edge_ad_runtime.guard.config import GuardConfig;"
        "from edge_ad_runtime.guard.link import ProcessGuard;"
        "ProcessGuard(msgspec.json.decode(sys.argv[1], type=GuardConfig), pathlib.Path(sys.argv[2]))"
    )
    config = msgspec.json.encode(line.config(**changes)).decode()
    subprocess.run([sys.executable, "-c", code, config, str(line.state)], check=True, timeout=60)
    line.guard()


def test_who_says_nothing_keeps_no_scorer_away(line: GuardedLine) -> None:
    abandoned(line)
    for _ in range(3):
        RawScorer.at(line)
    assert isinstance(RawScorer.at(line).hello(), Welcome)


def test_who_says_nothing_is_hung_up_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "GREETING_PATIENCE_NS", 100 * MS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.fspath(tmp_path / "socket"))
        listener.listen()
        guard = Guard(GuardConfig(line="x", outputs=()), GuardParts([]), listener=listener)
        runner = threading.Thread(target=guard.run)
        runner.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(os.fspath(tmp_path / "socket"))
            begin = time.monotonic()
            assert RawScorer(connection).hear() is None
            assert 0.1 <= time.monotonic() - begin < 2
        guard.finish(0)
        runner.join(10)
    assert not runner.is_alive()


def test_more_guests_than_places_push_out_the_oldest(line: GuardedLine) -> None:
    abandoned(line)
    guests = [RawScorer.at(line) for _ in range(12)]
    assert isinstance(guests[-1].hello(), Welcome)
    assert guests[0].hear() is None


def test_a_second_scorer_is_refused_with_the_first_ones_number(line: GuardedLine) -> None:
    link, _ = start(line)
    with pytest.raises(OutputError, match=f"already run by process {os.getpid()}"):
        ProcessGuard(line.config(), line.state)
    link.finish(0)


def test_another_protocol_is_refused_with_the_remedy(line: GuardedLine) -> None:
    abandoned(line)
    answer = RawScorer.at(line).hello(protocol=99)
    assert isinstance(answer, Refused)
    assert f"kill {line.guard()}" in answer.why
    first = RawScorer.at(line)
    first.say(Finish(0))
    refused = first.hear()
    assert isinstance(refused, Refused), "nobody ends the guard without a greeting"
    assert alive(line.guard())


@pytest.mark.parametrize("packet", [b"\xff\xff", b"\x00" * 70_000])
def test_who_says_what_is_not_understood_is_hung_up_and_parts_go_on(line: GuardedLine, packet: bytes) -> None:
    abandoned(line)
    raw = RawScorer.at(line)
    assert isinstance(raw.hello(), Welcome)
    raw.say(Alive(0, True))
    now = time.monotonic_ns()
    raw.say(SoftTrigger(now))
    raw.hear_of(PartSeen)
    raw.socket.send(packet)
    while (message := raw.hear()) is not None:
        assert isinstance(message, Notice)
    wait_until(lambda: line.pulses)
    # With the scorer its trigger is gone: the hold for what comes unseen begins where it was heard last.
    assert -20 * MS <= line.pulses[0] - now - 400 * MS < 40 * MS


def test_a_flood_of_messages_does_not_delay_a_pulse(line: GuardedLine) -> None:
    link, _ = start(line)
    now = time.monotonic_ns()
    link.tell(SoftTrigger(now))
    while time.monotonic_ns() < now + 600 * MS:
        link.tell(Alive(1, True))
    assert len(line.pulses) == 1
    assert 0 <= line.pulses[0] - now - 400 * MS < 35 * MS
    link.finish(0)


def test_a_scorer_that_does_not_read_is_told_of_all_parts_later(line: GuardedLine) -> None:
    settings = track(100, min_gap=0.1 * MS, debounce_ns=0, max_in_flight=10_000)
    abandoned(line, track=settings)
    raw = RawScorer.at(line)
    assert isinstance(raw.hello(), Welcome)
    parts = 900
    for _ in range(parts):
        raw.say(SoftTrigger(time.monotonic_ns()))
        time.sleep(0.0003)
    time.sleep(0.3)
    seen: list[int] = []
    settled: list[int] = []
    while len(settled) < parts:
        message = raw.hear()
        if isinstance(message, PartSeen):
            seen.append(message.part)
        elif isinstance(message, Settled):
            settled.append(message.part)
    assert seen == settled == list(range(1, parts + 1))


def test_records_wait_for_the_next_scorer(line: GuardedLine) -> None:
    abandoned(line, track=track(50))
    first = RawScorer.at(line)
    assert isinstance(first.hello(), Welcome)
    first.say(SoftTrigger(time.monotonic_ns()))
    first.hear_of(PartSeen)
    first.socket.close()
    time.sleep(0.3)
    second, later = start(line, track=track(50))
    assert second.taken_over
    wait_until(lambda: later.of(Settled))
    assert [(s.part, s.fault) for s in later.of(Settled)] == [(1, Fault.SCORER)]
    report = second.finish(0)
    assert report.scorer_losses == 2 and report.faults == {Fault.SCORER: 1}


def test_another_configuration_ends_the_old_guard_first(line: GuardedLine) -> None:
    abandoned(line)
    old = line.guard()
    link, _ = start(line, track=track(70))
    assert line.guard() != old and not alive(old) and not link.taken_over
    link.finish(0)


def test_a_stale_socket_and_lock_are_no_obstacle(line: GuardedLine) -> None:
    abandoned(line)
    os.kill(line.guard(), signal.SIGKILL)
    wait_until(lambda: not alive(line.guard()))
    folder = line.state / "lines" / "line"
    assert (folder / SOCKET).exists()
    link, _ = start(line)
    link.finish(0)
    assert not (folder / SOCKET).exists()


def test_a_finish_while_the_guard_is_replaced_reaches_the_new_one(line: GuardedLine) -> None:
    link, _ = start(line)
    os.kill(line.guard(), signal.SIGKILL)
    report = link.finish(0.5)
    assert report.final and link.restarts == 1
    wait_until(lambda: not alive(line.guard()))
    assert line.commands[-1][1] is OFF


def test_a_guard_that_dies_in_its_last_seconds_is_replaced_to_make_the_outputs_safe(
    line: GuardedLine,
) -> None:
    link, _ = start(line, pulse_ms=5_000, track=track(50, reach_ns=5_000 * MS))
    link.tell(SoftTrigger(time.monotonic_ns()))
    wait_until(lambda: line.pulses)
    assert line.commands[-1][1] is ON
    ender = threading.Timer(0.2, os.kill, (line.guard(), signal.SIGKILL))
    ender.start()
    link.finish(10)
    ender.join()
    assert line.commands[-1][1] is OFF


def test_a_verdict_on_a_part_of_a_dead_guard_meets_no_new_part(line: GuardedLine) -> None:
    link, heard = start(line)
    link.tell(SoftTrigger(time.monotonic_ns()))
    wait_until(lambda: heard.of(PartSeen))
    os.kill(line.guard(), signal.SIGKILL)
    wait_until(lambda: link.restarts == 1)
    link.tell(Alive(0, True))
    link.tell(SoftTrigger(time.monotonic_ns()))
    wait_until(lambda: len(heard.of(PartSeen)) == 2)
    first, second = heard.of(PartSeen)
    link.tell(PartVerdict(first.part, first.t_trigger_ns, Verdict.PASS))
    # Nor would it if the new guard counted from the same number again.
    link.tell(PartVerdict(second.part, first.t_trigger_ns, Verdict.PASS))
    wait_until(lambda: heard.of(Settled))
    assert [(s.part, s.verdict, s.ejected) for s in heard.of(Settled)] == [(2, Verdict.FAULT, True)]
    assert link.finish(0).late_verdicts == 2


def test_a_new_guard_starts_although_a_device_is_away(line: GuardedLine) -> None:
    """After a death one missing board must not keep the others from working; at the first start it is an error."""
    board = line.folder / "away"
    main, side = os.openpty()
    board.symlink_to(os.ttyname(side))
    link, heard = start(line, outputs=(f"serial://{board}",))
    board.unlink()
    os.kill(line.guard(), signal.SIGKILL)
    wait_until(lambda: any("nothing is rejected there" in n.text for n in heard.of(Notice)))
    # Whatever may pass at the first start: among what is on the belt now are the dead guard's rejects.
    wait_until(lambda: len(line.pulses) == 1 and line.commands[-1][1] is OFF)
    assert line.commands[-1][0] - line.pulses[0] >= 390 * MS
    before = len(line.pulses)
    link.tell(SoftTrigger(time.monotonic_ns()))
    wait_until(lambda: len(line.pulses) > before)
    board.symlink_to(os.ttyname(side))
    wait_until(lambda: any("works again" in n.text for n in heard.of(Notice)))
    link.finish(0)
    os.close(main)
    os.close(side)


def test_what_cannot_be_opened_is_said_at_the_first_start(line: GuardedLine) -> None:
    with pytest.raises(OutputError, match="/dev/nothing"):
        ProcessGuard(line.config(outputs=("serial:///dev/nothing",)), line.state)
    with pytest.raises(OutputError, match="nonsense"):
        ProcessGuard(line.config(trigger="nonsense://x"), line.state)
    link, _ = start(line)
    link.finish(0)


def test_modules_in_the_working_folder_do_not_replace_others(
    line: GuardedLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("PYTHONSAFEPATH is new in Python 3.11")
    (line.folder / "msgspec.py").write_text("raise SystemExit('the wrong one')\n", encoding="ascii")
    monkeypatch.chdir(line.folder)
    link, _ = start(line)
    link.finish(0)


def test_an_idle_guard_takes_little(line: GuardedLine) -> None:
    link, _ = start(line)
    pid = line.guard()
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu_s() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    begin, used = time.monotonic(), cpu_s()
    while time.monotonic() - begin < 2.0:
        link.tell(Alive(0, True))
        time.sleep(0.1)
    # Ten signs of life a second and none of a part; a tick is 10 ms. About 0.3 % where it was measured.
    assert (cpu_s() - used) / (time.monotonic() - begin) < 0.03
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident = int(status.partition("VmRSS:")[2].split()[0])
    assert resident < 60_000, f"{resident} kB"
    assert int(status.partition("Threads:")[2].split()[0]) == 3
    link.finish(0)


@pytest.fixture
def thread_guard() -> Iterator[Callable[..., tuple[ThreadGuard, Heard, list[MockConfig]]]]:
    made: list[ThreadGuard] = []

    def make(*urls: str, **changes: Any) -> tuple[ThreadGuard, Heard, list[MockConfig]]:
        outputs = [output for url in urls if isinstance(output := parse_output(url), MockConfig)]
        config = GuardedLine(Path()).config(**changes)
        link, heard = ThreadGuard(config, GuardParts(outputs)), Heard()
        made.append(link)
        link.listen(heard)
        link.tell(Alive(0, True))
        return link, heard, outputs

    yield make
    for link in made:
        link.abandon()


def test_one_stuck_output_does_not_keep_the_others_from_being_safe(
    thread_guard: Callable[..., tuple[ThreadGuard, Heard, list[MockConfig]]],
) -> None:
    link, _, (_, quick) = thread_guard("mock://slow?slow_ms=1500&safe=on", "mock://quick?safe=on")
    wait_until(lambda: quick.device.history)
    begin = time.monotonic_ns()
    link.finish(0)
    assert quick.device.history[-1][0] - begin < 500 * MS


def test_a_stop_of_the_interpreter_leaves_a_thread_guards_outputs_safe(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    code = f"""
import time
from edge_ad_runtime.guard.config import GuardConfig
from edge_ad_runtime.guard.core import GuardParts
from edge_ad_runtime.guard.link import ThreadGuard
from edge_ad_runtime.guard.messages import Alive, FrameVerdict
from edge_ad_runtime.outputs import parse_output
from edge_ad_runtime.verdict import Verdict
output = parse_output("mock://x?pulse_ms=60000&log={log}")
guard = ThreadGuard(GuardConfig(line="x", outputs=()), GuardParts([output]))
guard.listen(lambda message: None)
guard.tell(Alive(0, True))
guard.tell(FrameVerdict(time.monotonic_ns(), Verdict.REJECT))
time.sleep(0.3)
raise SystemExit(3)
"""
    begin = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 3
    assert time.monotonic() - begin < 10
    levels = [msgspec.json.decode(text)["active"] for text in log.read_text(encoding="ascii").splitlines()]
    assert ON in levels and levels[-1] is OFF


def test_what_a_hearer_raises_does_not_make_the_link_deaf(
    thread_guard: Callable[..., tuple[ThreadGuard, Heard, list[MockConfig]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link, heard, _ = thread_guard("mock://x")
    monkeypatch.setattr(link, "_hearer", lambda message: 1 / 0)
    link.tell(Ask())
    time.sleep(0.1)
    monkeypatch.setattr(link, "_hearer", heard)
    link.tell(Ask())
    wait_until(lambda: heard.of(Report))


def test_an_actuator_whose_thread_ends_ends_the_guard(
    thread_guard: Callable[..., tuple[ThreadGuard, Heard, list[MockConfig]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would give its pulses any more; the process is replaced by its link."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    link, _, (output,) = thread_guard("mock://x")
    wait_until(lambda: output.device.history)

    def broken() -> int:
        raise MemoryError

    actuators: list[Any] = []
    original = Guard._watch_outputs

    def spy(self: Guard) -> None:
        if not actuators:
            actuators.extend(self._actuators)
            actuators[0]._clock.now_ns = broken
            actuators[0].hold_from("x", 0)
        original(self)

    monkeypatch.setattr(Guard, "_watch_outputs", spy)
    link.tell(Alive(1, True))
    with pytest.raises(OutputError):
        link.finish(0.5)
    assert output.device.history[-1][1] is OFF


def test_no_lock_of_pythons_own_waits_for_a_time() -> None:
    """Its timeouts follow the wall clock in some builds of Python."""

    class Untimed(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is None
            return super().wait()

    clock, condition = MonotonicClock(), Untimed()
    begin = time.monotonic()
    with condition:
        clock.wait(condition, clock.now_ns() + 50 * MS)
    assert 0.05 <= time.monotonic() - begin < 1

    def wake() -> None:
        with condition:
            clock.wake(condition)

    waker = threading.Timer(0.05, wake)
    waker.start()
    with condition:
        clock.wait(condition, clock.now_ns() + 60_000 * MS)
    assert time.monotonic() - begin < 5
    waker.join()
    clock.leave(condition)


def test_texts_that_messages_can_carry() -> None:
    assert sendable("plain") == "plain" and sendable("é") == "é"
    assert sendable("\udcff") == "?"
    assert len(sendable("x" * 100_000)) == LONGEST_TEXT
    msgspec.msgpack.encode(Notice(sendable("\udcff" * 100_000)))


def test_a_hung_guard_is_asked_before_it_is_replaced() -> None:
    """What the docstring of :class:`ProcessGuard` says."""
    assert link_module.PING_S * (link_module.PINGS + 1) == 4.0


def test_the_process_is_prompt(line: GuardedLine) -> None:
    link, _ = start(line)
    pid = line.guard()
    fifo = os.sched_getscheduler(pid) == os.SCHED_FIFO
    assert fifo == link.realtime
    for thread in Path(f"/proc/{pid}/task").iterdir():
        assert (os.sched_getscheduler(int(thread.name)) == os.SCHED_FIFO) == fifo, "every thread, or none"
    if os.geteuid() == 0 and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        assert int(status.partition("VmLck:")[2].split()[0]) > 0
    link.finish(0)


def test_how_fast_the_model_is_does_not_part_a_scorer_from_its_guard() -> None:
    config = GuardConfig(line="x", outputs=("mock://x",), silence_ns=1_000 * MS)
    slower = GuardConfig(line="x", outputs=("mock://x",), silence_ns=2_000 * MS)
    other = GuardConfig(line="x", outputs=("mock://y",), silence_ns=1_000 * MS)
    assert config.digest == slower.digest != other.digest
