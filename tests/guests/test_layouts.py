"""Kernels of other layouts than the framework's, on the machine and in the hands of a script that calls xl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen.hypervisor.dom0_interface import ShutdownReason
from tests.guests.build import HERE, Builder
from tests.guests.machine import Machine
from tests.toolstack.xl_command import listed, run, start, xl


@pytest.fixture(scope="module")
def low_kernel() -> Path:
    return Builder().build_alone(HERE / "layouts" / "low_kernel.c")


@pytest.fixture
def host(runtime_directory: Path) -> Iterator[pyxen.Host]:
    with pyxen.Host(runtime_directory, memory=512) as host:
        yield host


def test_a_kernel_in_the_lower_half(low_kernel: Path, machine: Machine) -> None:
    outcome = machine.run(low_kernel, memory_mib=128)
    assert outcome.reason is ShutdownReason.POWEROFF, outcome
    assert "FAIL" not in outcome.console and outcome.console.splitlines()[-1] == "Test result: SUCCESS", outcome
    assert "low kernel" in machine.log(), "CONSOLEIO_write"


def test_a_script_gets_every_line(low_kernel: Path, host: pyxen.Host, tmp_path: Path) -> None:
    """``xl create -p``, ``xl console`` into a pipe, ``xl unpause``: the console ends with the domain, with all that it printed."""
    config = tmp_path / "low.cfg"
    config.write_text(f'name="test-pv64-low"\nloader="generic"\nmemory=128\nkernel="{low_kernel}"\nextra="store"\n')
    for _ in range(3):
        created = run("xl", "create", "-p", str(config))
        assert created.returncode == 0, created.stderr
        console = start("xl", "console", "test-pv64-low")
        xl("unpause", "test-pv64-low")
        output, _ = console.communicate(timeout=60)
        assert console.returncode == 0
        lines = output.splitlines()
        assert lines[0] == "low kernel" and lines[-1] == "Test result: SUCCESS", output
        assert "ok the store says which domain this is" in lines
        assert listed() == {}


def test_create_in_the_foreground_waits_for_the_end(low_kernel: Path, host: pyxen.Host, tmp_path: Path) -> None:
    """``xl create -F``, and the console's log file."""
    config = tmp_path / "low.cfg"
    config.write_text(f'name="foreground"\nmemory=128\nkernel="{low_kernel}"\nextra="store"\n')
    ended = run("xl", "create", "-F", str(config))
    assert ended.returncode == 0, ended.stderr
    assert listed() == {}
