"""A vCPU that has translated much code and then idles gives the memory back."""

from __future__ import annotations

import re
import time
from pathlib import Path

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import CODE, DATA, PAGE, Sandbox
from tests.engine.assembler import assemble

#: Jumps to the next instruction, each a block of its own, on the data pages; then a system call.
BLOCKS = b"\xeb\x00" * (12 * PAGE // 2) + b"\x0f\x05"
#: More than the engine's REST_NS.
REST_S = 4.2
#: A multiple of the engine's RUNS_BETWEEN_LOOKS.
RUNS = 64


def code_bytes() -> int:
    """Of memory that this process may execute and write."""
    text = Path("/proc/self/smaps").read_text()
    return sum(int(size) for size in re.findall(r"^\S+ rwxp [^\n]*(?:\n\w+:[^\n]*)*?\nRss: +(\d+) kB", text, re.MULTILINE)) << 10


def test_a_cpu_at_rest_drops_its_code(box: Sandbox) -> None:
    box.load(BLOCKS, DATA)
    cpu = box.cpu(assemble("syscall"))
    state = cpu.state

    def run(address: int) -> None:
        state.rip = address
        assert cpu.run() == ExitReason.SYSCALL

    for _ in range(RUNS):
        run(CODE)  # begins an interval
    before = code_bytes()
    run(DATA)
    assert code_bytes() - before > 3 << 20
    assert box.engine.has_translated_code(DATA // PAGE)
    for _ in range(RUNS):
        run(CODE)
    assert box.engine.has_translated_code(DATA // PAGE)  # the interval is not over
    time.sleep(REST_S)
    for _ in range(RUNS):
        run(CODE)
    assert not box.engine.has_translated_code(DATA // PAGE)
    assert code_bytes() - before < 1 << 20
    run(DATA)  # and again


def test_a_busy_cpu_keeps_its_code(box: Sandbox) -> None:
    box.load(BLOCKS, DATA)
    cpu = box.cpu(assemble("mov ecx, 10000; 1: dec ecx; jnz 1b; syscall"))
    state = cpu.state
    state.rip = DATA
    assert cpu.run() == ExitReason.SYSCALL
    end = time.monotonic() + 2 * REST_S
    while time.monotonic() < end:
        state.rip = CODE
        assert cpu.run() == ExitReason.SYSCALL
    assert box.engine.has_translated_code(DATA // PAGE)
