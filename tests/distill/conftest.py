"""Fixtures of the distillation's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distill.common import write_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))
