"""Fixtures of the command tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.recorded_host import RecordedHost


@pytest.fixture
def recorded_host(runtime_directory: Path) -> Iterator[RecordedHost]:
    """Answers the commands of this test; ``PYXEN_RUNTIME_DIR`` names its folder."""
    host = RecordedHost()
    with host.listening(runtime_directory):
        yield host
