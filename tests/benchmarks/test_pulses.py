"""The study of the pulses' times runs; what it finds is for its table, not for a test on a busy machine."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.pulses import NAMES, lateness, measure, table

MS = 1_000_000


@pytest.mark.parametrize("kind", [NAMES[0], "thread"])
def test_a_few_pulses(kind: str) -> None:
    row = measure(kind, 40, None)
    assert row["given_percent"] > 50
    assert 0 <= row["p50_ms"] <= row["worst_ms"] < 1000
    assert row["bytes_worst_ms"] > 0 and row["machine_worst_ms"] > 0
    assert kind in table([row])


def test_lateness_is_that_of_the_deadline_that_has_come() -> None:
    due = np.array([10, 20, 30]) * MS
    levels = [(1 * MS, False), (11 * MS, True), (15 * MS, False), (32 * MS, True), (36 * MS, False)]
    found = lateness(due, levels)
    assert found["given_percent"] == pytest.approx(200 / 3)
    assert (found["p50_ms"], found["worst_ms"]) == (2.0, 2.0)
    assert found["p99_ms"] == np.inf, "one was not given"
    with pytest.raises(SystemExit):
        lateness(due, [(1 * MS, True)])
