"""``--timing``: the stages of a start-up, all of them, in their order."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.guests.build import PROGRAMS, Builder, read_program
from tests.toolstack.tiny_kernels import LOOP, write_kernel
from tests.toolstack.xl_command import run

pytestmark = pytest.mark.timeout(120)

HOST_STAGES = [
    "host: process started",
    "host: modules loaded",
    "host: helpers started, privileges given up",
    "host: engine tested, machine memory ready",
    "host: Domain 0 ready",
]
BUILT = [
    "request received",
    "configuration read",
    "kernel read and unpacked",
    "domain created",
    "memory allocated",
    "kernel loaded",
    "ramdisk loaded",
    "P2M and M2P written",
    "page tables written",
    "first vCPU ready",
    "store entries written",
    "console and store connected",
    "devices attached",
]
RUNNING = ["unpaused", "first guest instruction", "first console byte"]


@pytest.fixture(scope="module")
def talking_kernel() -> Path:
    """A guest that says its name and then runs on."""
    program = read_program(PROGRAMS / "loop_masked.c")
    return Builder().build([program])[program.name]


def configuration(folder: Path, kernel: Path) -> str:
    path = folder / "guest.cfg"
    path.write_text(f'name = "guest"\nkernel = "{kernel}"\nmemory = 32\n')
    return str(path)


def table(result: subprocess.CompletedProcess[str]) -> list[tuple[float, float, str]]:
    """The lines below the heading: at, took, stage."""
    assert result.returncode == 0, result.stderr
    heading, *lines = result.stderr.splitlines()
    assert heading.split() == ["at", "ms", "took", "ms", "stage"]
    found = [re.fullmatch(r" *([\d.]+) +([-\d.]+)  (.+)", line) for line in lines]
    return [(float(match[1]), float(match[2]), match[3]) for match in found if match]


def stages_of(result: subprocess.CompletedProcess[str], program: str) -> list[str]:
    """The stages that are not the command's own; its first line begins the time, which only goes forward."""
    rows = table(result)
    assert rows[0] == (0.0, 0.0, f"{program}: process started")
    times = [at for at, _, _ in rows]
    assert times == sorted(times)
    assert all(abs(at - before - took) < 0.2 for (before, _, _), (at, took, _) in zip(rows, rows[1:], strict=False))
    return [stage for _, _, stage in rows if not stage.startswith(f"{program}:")]


def test_stages_of_xl_create(runtime_directory: Path, tmp_path: Path, talking_kernel: Path) -> None:
    config = configuration(tmp_path, talking_kernel)
    first = run("xl", "create", "--timing", config)
    assert stages_of(first, "xl") == HOST_STAGES + BUILT + RUNNING
    own = [stage for _, _, stage in table(first) if stage.startswith("xl:")]
    assert own == ["xl: process started", "xl: ready to work", "xl: host answered, configuration checked"]
    # The host runs now, so that its own start is no part of this one's.
    assert stages_of(run("xl", "create", "--timing", config, 'name="second"'), "xl") == BUILT + RUNNING
    # Paused, it does not run.
    assert stages_of(run("xl", "create", "-p", "--timing", config, 'name="third"'), "xl") == BUILT
    # Without the option nothing is said.
    quiet = run("xl", "create", config, 'name="fourth"')
    assert quiet.returncode == 0 and quiet.stderr == ""


def test_pyxen_run_prints_it_when_the_guest_has_ended(runtime_directory: Path) -> None:
    program = read_program(PROGRAMS / "shutdown_poweroff.c")
    kernel = Builder().build([program])[program.name]
    result = run("pyxen", "run", str(kernel), "--memory", "8", "--timing")
    assert stages_of(result, "pyxen") == HOST_STAGES + BUILT + RUNNING


def test_a_silent_guest_is_not_waited_for_for_ever(
    runtime_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pyxen.cli.start_timing.PATIENCE", 1.0)
    from pyxen.cli.xl import main

    assert main(["create", "-q", "--timing", configuration(tmp_path, write_kernel(tmp_path, LOOP))]) == 0
    said = capsys.readouterr().err
    assert "not complete within the time" in said and "first guest instruction" in said and "first console byte" not in said
