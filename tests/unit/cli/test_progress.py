"""Progress is shown on a terminal, when it takes long, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toolstack.xl_command import exit_status, run, spawn
from tests.unit.cli.recorded_host import RecordedHost


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "g.cfg"
    path.write_text('name="g"')
    return path


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, False), (3.0, True)])
def test_on_a_terminal(recorded_host: RecordedHost, config: Path, seconds: float, shown: bool) -> None:
    recorded_host.creation_seconds = seconds
    child = spawn("xl", "create", str(config))
    assert exit_status(child) == 0
    assert (b"laying the first stone" in (child.before or b"")) == shown


def test_not_into_a_file(recorded_host: RecordedHost, config: Path) -> None:
    recorded_host.creation_seconds = 2.0
    result = run("xl", "create", str(config))
    assert (result.returncode, result.stderr) == (0, "")
