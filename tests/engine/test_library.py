"""Loading the library, its self-test, and what a vCPU costs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyxen.engine import library, unicorn_engine
from pyxen.engine.interface import CpuState, EngineError, ExitReason, VirtualCpu
from pyxen.engine.library import Library, expected_layout
from pyxen.engine.sandbox import Sandbox
from pyxen.engine.self_test import run_self_test
from pyxen.engine.unicorn_engine import make_engine
from tests.engine.assembler import assemble

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_the_self_test_passes(box: Sandbox) -> None:
    box.engine.self_test()


def test_the_self_test_fails_on_an_engine_that_loses_kicks() -> None:
    class Deaf(unicorn_engine.UnicornCpu):
        __slots__ = ()

        def kick(self) -> None:
            pass

    class DeafEngine(unicorn_engine.UnicornEngine):
        def create_cpu(self, *, exit_on_cpuid: bool, deprivileged: bool) -> VirtualCpu:
            cpu = Deaf(self._machine, 3, 1 << 20)
            rescue = threading.Timer(0.2, lambda: unicorn_engine.UnicornCpu.kick(cpu))
            rescue.daemon = True
            rescue.start()
            return cpu

    with pytest.raises(EngineError, match="not lost"):
        run_self_test(DeafEngine)


def test_a_missing_library(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not built"):
        Library(tmp_path / "libpyxen-engine.so")


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "libpyxen-engine.so"
    path.write_bytes(b"not ELF")
    with pytest.raises(EngineError, match="cannot be used"):
        Library(path)


def test_a_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "expected_layout", lambda: [*expected_layout()[:-1], 0])
    with pytest.raises(EngineError, match="another pyxen version"):
        Library(library.library_path())


def test_the_layout_covers_every_field() -> None:
    assert len(expected_layout()) == 4 + len(CpuState._fields_)


@pytest.mark.parametrize(("address", "size"), [(0, 0), (0, 100), (1, 4096), (0, -4096)])
def test_memory_must_be_whole_pages(address: int, size: int) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        make_engine(address, size)


def test_a_closed_cpu(box: Sandbox) -> None:
    cpu = box.cpu(b"\x0f\x05")
    cpu.close()
    cpu.close()
    cpu.kick()
    cpu.invalidate_frame(1)
    with pytest.raises(EngineError, match="closed"):
        cpu.run()


def test_cpus_can_be_made_in_several_threads_at_once() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                with Sandbox(make_engine) as box:
                    assert box.cpu(b"\x0f\x05").run() == ExitReason.SYSCALL
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_closed_cpus_give_their_memory_back(box: Sandbox) -> None:
    code = assemble("mov ecx, 1000; 1: dec ecx; jnz 1b; syscall")

    def one() -> None:
        cpu = box.cpu(code)
        assert cpu.run() == ExitReason.SYSCALL
        cpu.close()

    for _ in range(20):
        one()
    before = resident_bytes()
    for _ in range(200):
        one()
    assert resident_bytes() - before < 200 * 20_000  # each takes over half a megabyte while it lives


def test_a_cpu_takes_little_memory(box: Sandbox) -> None:
    box.cpu(b"\x0f\x05").run()
    before = resident_bytes()
    cpus = [box.cpu(b"\x0f\x05") for _ in range(16)]
    for cpu in cpus:
        assert cpu.run() == ExitReason.SYSCALL
    per_cpu = (resident_bytes() - before) // len(cpus)
    assert per_cpu < 4 << 20


def test_a_machine_lives_as_long_as_its_cpus() -> None:
    box = Sandbox(make_engine)
    cpu = box.cpu(b"\x0f\x05")
    box.engine = Sandbox(make_engine).engine
    assert cpu.run() == ExitReason.SYSCALL
    box.close()


def test_kicks_while_cpus_are_closed(box: Sandbox) -> None:
    current = [box.cpu()]
    done = threading.Event()

    def kick() -> None:
        while not done.is_set():
            current[0].kick()
            current[0].invalidate_frame(1)

    thread = threading.Thread(target=kick)
    thread.start()
    try:
        for _ in range(100):
            old, current[0] = current[0], box.cpu()
            old.close()
    finally:
        done.set()
        thread.join()
