"""Sinks of part records: texts, the queue that they share, files, functions, webhooks, the schema."""

from __future__ import annotations

import json
import logging
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks import CallableSink, Sink, SinkGroup, open_sinks, parse_sink
from edge_ad_runtime.sinks.base import MAX_WAITING, QueuedSink
from edge_ad_runtime.sinks.jsonl import JsonLinesConfig
from edge_ad_runtime.sinks.mqtt import LineState, MqttConfig
from edge_ad_runtime.sinks.schema import main, record_schema
from edge_ad_runtime.sinks.webhook import WebhookConfig
from tests.line.records import record, wait_until
from tests.line.web_server import Request, WebServer

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def server() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.stop()


def parts_in(requests: list[Request]) -> list[int]:
    return [msgspec.json.decode(r.body, type=PartEvent).part for r in requests]


def reached(requests: list[Request], count: int) -> bool:
    return len(requests) >= count


# Texts


def test_texts_are_understood() -> None:
    assert parse_sink("jsonl:-") == JsonLinesConfig(None)
    assert parse_sink("jsonl:a/b.jsonl") == JsonLinesConfig(Path("a/b.jsonl"))
    mqtt = parse_sink("mqtts://me:p%40ss%2F@Broker.local/plant%202/line/?client_id=one&qos=2&ca=ca.pem")
    assert mqtt == MqttConfig(
        secure=True,
        host="broker.local",
        port=8883,
        prefix="plant 2/line",
        client_id="one",
        user="me",
        password="p@ss/",
        qos=2,
        ca=Path("ca.pem"),
    )
    plain = parse_sink("mqtt://[::1]:1884/x")
    assert isinstance(plain, MqttConfig)
    assert (plain.host, plain.port, plain.name) == ("::1", 1884, "mqtt://[::1]:1884/x")
    # The same at every start, and another one for another line: see the reason where it is made.
    assert re.fullmatch(r"edge-ad-[0-9a-f]{15}", plain.client_id)
    assert parse_sink("mqtt://[::1]:1884/x") == plain
    assert parse_sink("mqtt://[::1]:1884/y") != plain
    hook = parse_sink("https://u:pw@h:8443/T0/secret?token=t&batch=5&a=%20&rejects_only=1&timeout_s=2.5")
    assert hook == WebhookConfig(
        secure=True,
        host="h",
        port=8443,
        target="/T0/secret?token=t&a=%20",
        user="u",
        password="pw",
        rejects_only=True,
        batch=5,
        timeout_s=2.5,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be jsonl:FILE"),
        ("jsonl", "must be jsonl:FILE"),
        ("jsonl:", "must be jsonl:FILE"),
        ("csv:x", "must be jsonl:FILE"),
        ("/tmp/x", "must be jsonl:FILE"),
        ("mqtt:broker/x", "must be jsonl:FILE"),
        ("mqtt://broker", "give a topic"),
        ("mqtt://broker/", "give a topic"),
        ("mqtt://broker/a/+/b", "give a topic"),
        ("mqtt://broker/%23", "give a topic"),
        ("mqtt://broker/$SYS", "give a topic"),
        ("mqtt://broker/" + "a" * 65530, "give a topic"),
        ("mqtt:///x", "names no host"),
        ("mqtt://:1883/x", "names no host"),
        ("mqtt://b:0/x", "names no host"),
        ("mqtt://b:70000/x", "host and port"),
        ("mqtt://b:x/x", "host and port"),
        ("mqtt://[::1/x", "host and port"),
        (f"mqtt://{'a' * 64}/x", "host and port"),
        ("mqtt://b/x?qos=3", "qos=3 must be"),
        ("mqtt://b/x?qso=1", "'qso' is unknown"),
        ("mqtt://b/x?client_id=", "client_id"),
        ("mqtt://b/x?ca=ca.pem", "are for mqtts"),
        ("mqtts://b/x?key=k.pem", "without its certificate"),
        ("mqtt://:pw@b/x", "not an address"),
        ("http://", "names no host"),
        ("http://h/x#y", "%23"),
        ("http://h/x y", "percent-encoded"),
        ("http://h/ä", "percent-encoded"),
        ("http://h/x?batch=0", "batch=0 must be"),
        ("http://h/x?batch=1&batch=2", "given twice"),
        ("http://h/x?rejects_only=yes", "rejects_only=yes is unknown"),
        ("http://h/x?timeout_s=0", "timeout_s=0 must be"),
        ("http://h/x?timeout_s=nan", "timeout_s=nan must be"),
    ],
)
def test_wrong_texts_are_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        parse_sink(text)


@pytest.mark.parametrize(
    "text",
    [
        "{}://u:s3cret@h:1/x",
        "{}://u:s3cret@h:99999/x",
        "{}://u:s3c/s3cret@h/x",
        "{}://u:1/s3cret@h/x",
        "{}://u:1?s3cret@h/x",
        "{}://u:1#s3cret@h/x",
        "{}://u:s3cret@/x",
        "{}://u:s3cret@h/x?unknown_key=s3cret&qos=9&batch=-1",
        "{}://u:s3cret@h/ä+?s3cret",
    ],
)
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "http", "https", "ftp"])
def test_no_message_and_no_name_tells_a_secret(scheme: str, text: str) -> None:
    try:
        config = parse_sink(text.format(scheme))
    except InputError as error:
        assert "s3cret" not in str(error)
        assert error.__cause__ is None
    else:
        assert "s3cret" not in config.name + repr(config)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingExtra, match=r"edge-ad\[mqtt\]"):
        parse_sink("mqtt://h/x").open()


def test_sinks_load_nothing_before_they_need_it() -> None:
    program = (
        "import sys, edge_ad_runtime.sinks\n"
        "found = {'paho', 'numpy', 'cv2'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# What all share


def stuck(kind: str, folder: Path, server: WebServer, closing: list[Callable[[], object]]) -> Sink:
    """An opened sink whose peer hangs."""
    if kind == "pipe":
        os.mkfifo(folder / "pipe")
        return parse_sink(f"jsonl:{folder}/pipe").open()
    if kind == "function":
        forever = threading.Event()
        closing.append(forever.set)
        return CallableSink(lambda _event: forever.wait(), "stuck")
    if kind == "webhook":
        server.status = "hang"
        return parse_sink(f"http://127.0.0.1:{server.port}/").open()
    pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed: pip install 'edge-ad[mqtt]'")
    from tests.line.broker import MOSQUITTO, Broker

    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    broker = Broker(folder, {"line": "pw"})
    closing.append(broker.kill)
    sink = parse_sink(f"mqtt://line:pw@127.0.0.1:{broker.port}/x").open()
    time.sleep(0.3)
    broker.pause()
    return sink


@pytest.mark.parametrize("kind", ["pipe", "function", "webhook", "mqtt"])
def test_writing_takes_microseconds_while_the_peer_hangs(
    kind: str, tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever did not arrive is counted, to the last one."""
    monkeypatch.setattr("edge_ad_runtime.sinks.base.CLOSE_PATIENCE_S", 0.3)
    closing: list[Callable[[], object]] = []
    sink = stuck(kind, tmp_path, server, closing)
    try:
        count = MAX_WAITING + 2000
        took = []
        for part in range(count):
            start = time.perf_counter()
            sink.write(record(part))
            took.append(time.perf_counter() - start)
        # On a quiet machine a few microseconds; the peers hang for ten seconds and more.
        assert statistics.median(took) < 200e-6
        assert sum(took) < 5
        before = sink.lost
        assert before > 0
        start = time.monotonic()
        sink.close()
        assert time.monotonic() - start < 3
        assert before < sink.lost <= count
        if kind != "pipe":  # a pipe's 64 KiB do arrive
            assert sink.lost == count
    finally:
        for each in closing:
            each()


def test_a_mistake_in_a_sink_is_told_and_everything_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Mistaken(QueuedSink[int]):
        def __init__(self) -> None:
            super().__init__("mistaken")
            self._start()

        def put(self) -> None:
            self._put(1)

        def _run(self) -> None:
            self._take()
            raise ZeroDivisionError("by mistake")

    sink = Mistaken()
    sink.put()
    wait_until(lambda: "ZeroDivisionError: by mistake" in caplog.text, "the log")
    for _ in range(3):
        sink.put()
    sink.close()
    assert sink.lost == 4


def test_writers_in_many_threads_lose_nothing_uncounted() -> None:
    seen = 0

    def count(_event: PartEvent) -> None:
        nonlocal seen
        seen += 1
        if seen % 7 == 0:
            raise ValueError

    sink = CallableSink(count)

    def write() -> None:
        for part in range(1000):
            sink.write(record(part))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    assert seen == 4000
    assert sink.lost == 4000 // 7


def test_a_group_hands_on_sums_up_and_closes_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad_runtime.sinks.base.CLOSE_PATIENCE_S", 0.5)
    forever = threading.Event()
    seen: list[PartEvent] = []
    hanging = [CallableSink(lambda _event: forever.wait(), f"stuck {i}") for i in range(5)]
    group = SinkGroup([CallableSink(seen.append, "good"), *hanging])
    group.write(record(1))
    group.write(record(2))
    start = time.monotonic()
    group.close()
    assert time.monotonic() - start < 2.5
    forever.set()
    assert [e.part for e in seen] == [1, 2]
    assert group.lost == 10
    assert group.name == "good, stuck 0, stuck 1, stuck 2, stuck 3, stuck 4"
    with pytest.raises(InputError, match="cannot be written"):
        open_sinks([parse_sink(f"jsonl:{tmp_path}/a"), parse_sink(f"jsonl:{tmp_path}/no/b")])
    assert not [t for t in threading.enumerate() if t.name == f"jsonl:{tmp_path}/a"]


# JSON lines


def test_lines_are_appended_and_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    path.write_text('{"part": 1}\n{"part": 2, "torn')
    sink = parse_sink(f"jsonl:{path}").open()
    sink.write(record(3))
    wait_until(lambda: path.read_text().count("\n") == 3, "the line")
    sink.write(record(4, "fault"))
    sink.close()
    sink.close()
    first, torn, third, fourth = path.read_text().splitlines()
    assert (first, torn) == ('{"part": 1}', '{"part": 2, "torn')
    assert json.loads(third) == {
        "part": 3,
        "source": "a.png",
        "score": 0.5,
        "threshold": 1.0,
        "verdict": "pass",
        "latency_ms": 1.0,
        "t_monotonic_ns": 1,
        "time": "2026-01-02T03:04:05.678+00:00",
    }
    assert json.loads(fourth)["score"] is None
    assert json.loads(fourth)["fault"] == "the camera is away"
    assert sink.lost == 0
    sink.write(record(5))
    assert sink.lost == 1, "it is closed"


def test_an_unwritable_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "such", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            parse_sink(f"jsonl:{path}").open()


def test_a_full_disk_loses_lines_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = parse_sink("jsonl:/dev/full").open()
    for part in range(10):
        sink.write(record(part))
    sink.close()
    assert sink.lost == 10
    assert [r.getMessage() for r in caplog.records] == [
        "jsonl:/dev/full: a record is lost (No space left on device); the line goes on and counts them"
    ]


# Functions


def test_what_a_function_raises_is_told_once_and_never_reaches_the_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []

    def function(event: PartEvent) -> None:
        seen.append(event.part)
        if event.part == 2:
            raise SystemExit(3)
        if event.part in (3, 4):
            raise RuntimeError("no more paper")

    sink = CallableSink(function, "printer")
    for part in range(1, 7):
        sink.write(record(part))
    sink.close()
    assert seen == [1, 2, 3, 4, 5, 6]
    assert sink.lost == 3
    assert len(caplog.records) == 1
    assert "printer: a record is lost (SystemExit: 3)" in caplog.text
    assert CallableSink(print).name == "function print"


# Webhooks


def test_each_record_is_posted(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = parse_sink(f"http://u:s3cret@127.0.0.1:{server.port}/hook/s3cret?token=s3cret&timeout_s=5")
    assert config.name == f"http://127.0.0.1:{server.port}/***"
    sink = config.open()
    for part, verdict in ((1, "pass"), (2, "reject"), (3, "fault")):
        sink.write(record(part, verdict))  # type: ignore[arg-type]
    sink.close()
    assert [msgspec.json.decode(r.body, type=PartEvent) for r in server.accepted] == [
        record(1),
        record(2, "reject"),
        record(3, "fault"),
    ]
    request = server.accepted[0]
    assert request.path == "/hook/s3cret?token=s3cret"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == "Basic dTpzM2NyZXQ="
    assert (sink.lost, server.connections) == (0, 1), "one connection serves all"
    assert "s3cret" not in caplog.text


def test_batches_are_arrays_and_rejects_only_leaves_out_what_passed(server: WebServer) -> None:
    sink = parse_sink(f"http://127.0.0.1:{server.port}/?batch=4&rejects_only=1").open()
    for part in range(30):
        sink.write(record(part, ("pass", "reject", "fault")[part % 3]))
    sink.close()
    batches = [msgspec.json.decode(r.body, type=list[PartEvent]) for r in server.accepted]
    assert [e.part for batch in batches for e in batch] == [p for p in range(30) if p % 3]
    assert len(batches) >= 5
    assert max(map(len, batches)) <= 4
    assert sink.lost == 0


def test_a_server_that_fails_hangs_goes_away_and_comes_back_gets_every_record(
    server: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    sink = parse_sink(f"http://127.0.0.1:{server.port}/?timeout_s=0.3").open()
    answers: list[int | str] = [200, 500, 429, "drop", "hang"]
    for number, status in enumerate(answers):
        server.status = status
        attempts = len(server.seen) + (1 if status == 200 else 2)
        for part in range(5 * number, 5 * number + 5):
            sink.write(record(part))
        wait_until(partial(reached, server.seen, attempts), f"attempts while it answers {status}")
        server.status = 200
        wait_until(partial(reached, server.accepted, 5 * number + 5), f"the records after {status}")
    server.stop()
    for part in range(25, 30):
        sink.write(record(part))
    time.sleep(0.3)
    server.start()
    sink.close()
    assert parts_in(server.accepted) == list(range(30)), "each once, in order"
    assert sink.lost == 0
    assert caplog.text.count("is tried again until it works") == caplog.text.count("works again") == 5


def test_what_the_server_will_never_take_is_lost_and_counted(
    server: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    sink = parse_sink(f"http://127.0.0.1:{server.port}/").open()
    for status in (404, 301, 413):
        server.status = status
        before = sink.lost
        sink.write(record(1))
        wait_until(lambda before=before: sink.lost == before + 1, f"{status}")  # type: ignore[misc]
    server.status = 204
    sink.write(record(2))
    sink.close()
    assert parts_in(server.accepted) == [2]
    assert sink.lost == 3
    assert len(server.seen) == 4, "tried once each"
    assert [r.getMessage().split(" (")[1] for r in caplog.records] == [
        "the server answers 404); the line goes on and counts them"
    ]


def test_a_connection_closed_between_two_records_is_no_failure(
    server: WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.impolite = True
    sink = parse_sink(f"http://127.0.0.1:{server.port}/").open()
    for part in range(5):
        sink.write(record(part))
        wait_until(lambda part=part: len(server.accepted) == part + 1, "the record")  # type: ignore[misc]
        time.sleep(0.02)
    sink.close()
    assert (sink.lost, caplog.text) == (0, "")


def test_a_sink_whose_server_is_away_closes_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ad_runtime.sinks.base.CLOSE_PATIENCE_S", 0.3)
    sink = parse_sink("http://127.0.0.1:9/?batch=7").open()
    for part in range(20):
        sink.write(record(part))
    start = time.monotonic()
    sink.close()
    assert time.monotonic() - start < 3
    assert sink.lost == 20


# The schema


@pytest.mark.parametrize("kind", ["part", "state"])
def test_the_published_schema_is_that_of_the_records(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([kind]) == 0
    printed = capsys.readouterr().out
    path = DOCS / f"{kind}.schema.json"
    assert path.read_text() == printed, (
        f"python -m edge_ad_runtime.sinks.schema {kind} > docs/{kind}.schema.json, and see docs/records.md"
    )


def test_the_schema_names_and_describes_every_field() -> None:
    for kind, struct in (("part", PartEvent), ("state", LineState)):
        schema = record_schema(kind)["$defs"][struct.__name__]  # type: ignore[arg-type]
        fields = msgspec.structs.fields(struct)
        assert list(schema["properties"]) == [f.name for f in fields]
        assert schema["required"] == [f.name for f in fields if f.required]
        for name, field in schema["properties"].items():
            assert "description" in field, name
    text = (DOCS / "records.md").read_text()
    for struct in (PartEvent, LineState):
        for each in msgspec.structs.fields(struct):
            assert f"`{each.name}`" in text, f"{each.name} is not in docs/records.md"


def test_an_unknown_schema_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["x"]) == 2
    assert "part|state" in capsys.readouterr().err
