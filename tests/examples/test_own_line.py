"""The example of a line made of Python objects."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest
from examples import own_line

from tests.conftest import bad_part, good_part


def test_the_example(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        image = bad_part(i) if i == 2 else good_part(100 + i)
        cv2.imwrite(str(tmp_path / f"{i}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    own_line.main(tiny_bundle, tmp_path)
    printed = capsys.readouterr().out
    assert re.findall(r"part (\d): (\w+)", printed) == [
        ("1", "pass"),
        ("2", "pass"),
        ("3", "reject"),
        ("4", "pass"),
        ("5", "pass"),
    ]
    # Off and, until the belt is known, on; the pulse for the third part; off at the end.
    assert re.findall(r"ejector (\w+)", printed)[-3:] == ["on", "off", "off"]
    assert "5 parts: 4 passed, 1 rejected, 0 faults" in printed
