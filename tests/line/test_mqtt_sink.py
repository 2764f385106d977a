"""The MQTT sink against a real mosquitto that is paused, killed and started again."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed: pip install 'edge-ad[mqtt]'")

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks import Sink, parse_sink
from edge_ad_runtime.sinks.mqtt import LineState
from tests.line.broker import MOSQUITTO, Broker, Listener
from tests.line.records import record, wait_until

pytestmark = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto"
)

USERS = {"line": "s3cret"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path, USERS)
    yield broker
    broker.kill()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    listener = Listener(broker.port)
    yield listener
    listener.close()


def open_sink(broker: Broker, options: str = "") -> Sink:
    return parse_sink(f"mqtt://line:s3cret@127.0.0.1:{broker.port}/plant/line1{options}").open()


def parts_of(listener: Listener) -> list[int]:
    return [msgspec.json.decode(payload, type=PartEvent).part for payload in listener.of("plant/line1/parts")]


def states_of(listener: Listener) -> list[LineState]:
    return [msgspec.json.decode(payload, type=LineState) for payload in listener.of("plant/line1/state")]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_birth_parts_state_and_an_orderly_end(broker: Broker, listener: Listener, qos: int) -> None:
    sink = open_sink(broker, f"?qos={qos}&client_id=one")
    assert sink.name == f"mqtt://127.0.0.1:{broker.port}/plant/line1"
    sink.write(record(1))
    wait_until(lambda: parts_of(listener) == [1], "the first part")
    start = time.monotonic()
    for part in range(2, 152):
        sink.write(record(part, ("pass", "reject", "fault")[part % 3]))
        time.sleep(0.01)
    seconds = time.monotonic() - start
    sink.close()
    sink.close()
    wait_until(lambda: listener.of("plant/line1/status")[-1:] == [b"offline"], "the end")
    assert parts_of(listener) == list(range(1, 152))
    assert sink.lost == 0
    assert listener.of("plant/line1/status") == [b"online", b"offline"]
    states = states_of(listener)
    # One at once, one at the end, in between one a second.
    assert 2 <= len(states) <= seconds + 3
    last = states[-1]
    assert (last.parts, last.passed, last.rejected, last.faults) == (151, 51, 50, 50)
    assert last.last == record(151, "reject")
    assert last.lost_records == 0
    assert listener.of("plant/line1/parts")[0] == msgspec.json.encode(record(1))
    # Those who come later get state and status, and no part of old.
    late = Listener(broker.port)
    wait_until(lambda: len(late.messages) >= 2, "what is retained")
    late.close()
    retained = {topic for topic, _, retain in late.messages if retain}
    assert retained == {"plant/line1/state", "plant/line1/status"}


def test_a_broker_killed_in_the_middle_and_started_again_gets_every_record(
    broker: Broker, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    sink = open_sink(broker)
    for part in range(100):
        sink.write(record(part))
    wait_until(lambda: len(parts_of(listener)) == 100, "the records before")
    # What is under way dies with the broker: it is paused, has it in its socket, and never reads it.
    broker.pause()
    for part in range(100, 200):
        sink.write(record(part))
    time.sleep(0.3)
    broker.kill()
    for part in range(200, 300):
        sink.write(record(part))
    time.sleep(0.3)
    # The listener is let in first, so that nothing can be said behind its back.
    broker.start({})
    listener.wait()
    broker.admit(USERS)
    wait_until(lambda: len(parts_of(listener)) >= 300, "all records")
    for part in range(300, 310):
        sink.write(record(part))
    sink.close()
    wait_until(lambda: listener.of("plant/line1/status")[-1:] == [b"offline"], "the end")
    assert parts_of(listener) == list(range(310)), "each once, in order"
    assert sink.lost == 0
    assert listener.of("plant/line1/status") == [b"online", b"online", b"offline"]
    # The broker forgot what it retained, so it is told again.
    assert states_of(listener)[-1].parts == 310
    told = [r.getMessage() for r in caplog.records]
    assert sum("is tried again until it works" in text for text in told) == 1
    assert sum("works again" in text for text in told) == 1
    assert "s3cret" not in caplog.text


def test_what_does_not_fit_while_the_broker_is_away_is_counted(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_ad_runtime.sinks.base.MAX_WAITING", 50)
    sink = open_sink(broker)
    sink.write(record(0))
    wait_until(lambda: parts_of(listener) == [0], "the record before")
    broker.kill()
    for part in range(1, 501):
        sink.write(record(part))
    assert 430 <= sink.lost <= 450
    broker.start({})
    listener.wait()
    broker.admit(USERS)
    wait_until(lambda: len(parts_of(listener)) == 501 - sink.lost, "what waited")
    sink.close()
    assert parts_of(listener)[-50:] == list(range(451, 501)), "the latest are kept"
    assert len(parts_of(listener)) + sink.lost == 501
    wait_until(lambda: listener.of("plant/line1/status")[-1:] == [b"offline"], "the end")
    assert states_of(listener)[-1].lost_records == sink.lost


def test_a_killed_program_leaves_its_last_will(broker: Broker, listener: Listener) -> None:
    program = f"""
import sys
from edge_ad_runtime.sinks import parse_sink
sink = parse_sink("mqtt://line:s3cret@127.0.0.1:{broker.port}/plant/line1").open()
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        wait_until(lambda: listener.of("plant/line1/status") == [b"online"], "the birth")
        process.kill()
        wait_until(lambda: listener.of("plant/line1/status") == [b"online", b"offline"], "the last will")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def test_a_refusal_is_told_without_the_password_and_mended_by_the_broker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(tmp_path, {})
    listener = Listener(broker.port)
    try:
        sink = open_sink(broker)
        sink.write(record(1))
        wait_until(lambda: "the broker refuses: Not authorized" in caplog.text, "the refusal")
        broker.admit(USERS)
        wait_until(lambda: parts_of(listener) == [1], "the record")
        sink.close()
    finally:
        listener.close()
        broker.kill()
    assert "s3cret" not in caplog.text + repr(parse_sink("mqtt://line:s3cret@h/t"))


def test_a_sink_whose_broker_hangs_or_is_missing_closes_in_time(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge_ad_runtime.sinks.base.CLOSE_PATIENCE_S", 0.3)
    sink = open_sink(broker)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        others = [
            parse_sink(f"mqtt://127.0.0.1:{port}/x").open(),
            parse_sink("mqtt://127.0.0.1:9/x").open(),
            parse_sink("mqtt://no-such-host.invalid/x").open(),
        ]
        time.sleep(0.3)
        broker.pause()
        for each in (sink, *others):
            for part in range(30):
                each.write(record(part))
            start = time.monotonic()
            each.close()
            assert time.monotonic() - start < 3
            assert each.lost == 30
            each.write(record(31))
            assert each.lost == 31
    broker.go_on()
    assert sum("the last 30 are lost" in r.getMessage() for r in caplog.records) == 4


def test_nothing_to_say_needs_no_broker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sink = parse_sink("mqtt://127.0.0.1:9/x").open()
    wait_until(lambda: "refused" in caplog.text, "the first attempt")
    start = time.monotonic()
    sink.close()
    assert time.monotonic() - start < 1
    assert sink.lost == 0


def certificates(folder: Path) -> None:
    """An authority, a server and a client that it signed."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *(
            "req",
            "-x509",
            *curve,
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-days",
            "2",
            "-subj",
            "/CN=test CA",
        ),
        *("-addext", "keyUsage=critical,keyCertSign"),
    )
    (folder / "san.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "san.ext"),
        )


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_with_an_authority_and_a_certificate_of_ones_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates(tmp_path)
    files = {key: tmp_path / name for key, name in (("cafile", "ca.pem"), ("certfile", "server.pem"))}
    tls = "\n".join([*(f"{k} {v}" for k, v in files.items()), f"keyfile {tmp_path}/server.key"])
    broker = Broker(tmp_path, USERS, tls + "\nrequire_certificate true\n")
    listener = Listener(broker.port)
    address = f"mqtts://line:s3cret@127.0.0.1:{broker.tls_port}/plant/line1?ca={tmp_path}/ca.pem"
    try:
        stranger = parse_sink(f"mqtts://127.0.0.1:{broker.tls_port}/plant/line1").open()
        wait_until(lambda: "certificate verify failed" in caplog.text, "the stranger's refusal")
        stranger.close()
        sink = parse_sink(f"{address}&certificate={tmp_path}/client.pem&key={tmp_path}/client.key").open()
        for part in range(200):
            sink.write(record(part))
        wait_until(lambda: parts_of(listener) == list(range(200)), "the records")
        sink.close()
        assert sink.lost == 0
    finally:
        listener.close()
        broker.kill()
    with pytest.raises(InputError, match=r"ca\.key: cannot be used"):
        parse_sink(f"mqtts://h/t?ca={tmp_path}/ca.key").open()
    with pytest.raises(InputError, match=r"no\.pem: cannot be used \(No such file"):
        parse_sink(f"mqtts://h/t?certificate={tmp_path}/no.pem").open()


def test_the_state_is_what_the_schema_says(broker: Broker, listener: Listener) -> None:
    sink = open_sink(broker)
    sink.write(record(1))
    wait_until(lambda: states_of(listener), "the state")
    sink.close()
    state = json.loads(listener.of("plant/line1/state")[0])
    assert set(state) == {"parts", "passed", "rejected", "faults", "lost_records", "last"}
