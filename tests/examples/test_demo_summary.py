"""The demo's last step finds a reject without a pulse and a pulse without a reject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from examples.demo.summary import match, read_pulses, show_run

from edge_ad_runtime.errors import DataError
from edge_ad_runtime.events import PartEvent

MS = 1_000_000
ON, OFF = ("A0 01 01 A2", "relay 1 on"), ("A0 01 00 A1", "relay 1 off")


def _event(part: int, verdict: Literal["pass", "reject", "fault"]) -> PartEvent:
    return PartEvent(
        part=part,
        source=f"belt/frame_{part - 1:03d}.png",
        score=1.0,
        threshold=0.5,
        verdict=verdict,
        latency_ms=30.0,
        t_monotonic_ns=1000 * MS + part * 100 * MS,
        time="2026-01-01T00:00:00+00:00",
    )


def _log(path: Path, *entries: tuple[int, tuple[str, str]]) -> Path:
    lines = [json.dumps({"t_monotonic_ns": t * MS, "bytes": b, "means": m}) for t, (b, m) in entries]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def _line(folder: Path) -> list[str]:
    """Three parts, the second one bad and rejected; what the summary finds wrong."""
    (folder / "images").mkdir()
    kinds = ("good", "chip", "good")
    shots = [{"frame": f"frame_{i:03d}.png", "kind": kind} for i, kind in enumerate(kinds)]
    (folder / "images" / "belt.json").write_text(json.dumps(shots))
    events = [_event(1, "pass"), _event(2, "reject"), _event(3, "pass")]
    (folder / "belt.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in events))
    return show_run(folder, "belt", "belt", "the line", read_pulses(folder / "relay.jsonl"))


def test_each_reject_has_its_pulse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The first command puts the relay into its safe state.
    _log(tmp_path / "relay.jsonl", (900, OFF), (1232, ON), (1252, OFF))
    assert _line(tmp_path) == []
    shown = capsys.readouterr().out
    assert "1 of 1 bad ones rejected, 0 of 2 good ones" in shown
    assert "relay received A0 01 01 A2, 20 ms later A0 01 00 A1" in shown


def test_a_reject_without_a_pulse_is_an_error(tmp_path: Path) -> None:
    _log(tmp_path / "relay.jsonl", (900, OFF))
    assert _line(tmp_path) == ["belt: part 2 was rejected, but the relay received nothing"]


def test_a_pulse_without_a_reject_is_an_error(tmp_path: Path) -> None:
    _log(tmp_path / "relay.jsonl", (1132, ON), (1152, OFF), (1232, ON), (1252, OFF))
    errors = _line(tmp_path)
    assert len(errors) == 1
    assert "a pulse without a rejected part, 32 ms after the first part" in errors[0]


def test_touching_pulses_are_shared(tmp_path: Path) -> None:
    pulses = read_pulses(_log(tmp_path / "relay.jsonl", (1130, ON), (1240, OFF)))
    events = [_event(1, "reject"), _event(2, "fault")]
    assert [(e.part, p) for e, p in match(events, pulses)] == [(1, pulses[0]), (2, pulses[0])]


def test_damaged_bytes_and_a_relay_left_on_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="left on"):
        read_pulses(_log(tmp_path / "a", (1130, ON)))
    with pytest.raises(DataError, match="received 7F"):
        read_pulses(_log(tmp_path / "b", (1130, ("7F", "?"))))
