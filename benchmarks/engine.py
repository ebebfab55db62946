"""Computations on the engine alone, without kernel and hypervisor: what translated code is worth.

    python benchmarks/engine.py

In CPU time of this process, so that other work on the machine matters little. ``PYXEN_ENGINE_LIBRARY`` names another library to compare.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from guest_image import SOURCES

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import CODE, DATA, PRESENT, STACK_TOP, USER, WRITE, Sandbox
from pyxen.engine.unicorn_engine import make_engine

#: Where the program is linked to and where it lies in memory; its size with its buffers.
PROGRAM, PROGRAM_FRAMES, PROGRAM_BYTES = 0x400000, 0x800000, 0x40000
MEMORY_BYTES = 16 << 20
SHA256_START = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ROUNDS = 3
#: Entries and exits that are timed.
EXITS = 200_000


def compile_program() -> bytes:
    """The flat binary of engine.c; its entry is its first octet."""
    with tempfile.TemporaryDirectory() as scratch:
        linked, flat = Path(scratch) / "linked", Path(scratch) / "flat"
        options = ["-O2", "-nostdlib", "-static", "-no-pie", "-fno-pic", "-fno-stack-protector", "-ffunction-sections"]
        layout = [f"-Wl,-Ttext={PROGRAM:#x}", "-Wl,--build-id=none", "-Wl,-N", "-Wl,--gc-sections", "-Wl,--undefined=run"]
        subprocess.run(["gcc", *options, *layout, "-o", linked, SOURCES / "engine.c"], check=True)
        subprocess.run(["objcopy", "-O", "binary", linked, flat], check=True)
        return flat.read_bytes()


def main() -> None:
    """Print the best of some rounds of each."""
    program = compile_program()
    with Sandbox(make_engine, MEMORY_BYTES) as box:
        for offset in range(0, PROGRAM_BYTES, 4096):
            box.map(PROGRAM + offset, PROGRAM_FRAMES + offset, PRESENT | WRITE | USER)
        box.load(program, PROGRAM_FRAMES)
        cpu = box.cpu(b"\x0f\x05\xeb\xfc", cpl=3)  # 1: syscall; jmp 1b
        state = cpu.state

        def seconds(which: int, count: int) -> float:
            for number, word in enumerate(SHA256_START):
                box.write(DATA + number * 4, word, 4)
            state.rip, state.rsp, state.rdi, state.rsi, state.rdx = PROGRAM, STACK_TOP, which, count, DATA
            started = time.process_time()
            assert cpu.run() == ExitReason.SYSCALL
            return time.process_time() - started

        def best(which: int, count: int) -> float:
            return min(seconds(which, count) for _ in range(ROUNDS))

        print(f"sha256    {200_000 * 64 / 1e6 / best(0, 200_000):8.1f} MB/s")
        print(f"int_loop  {8 * 100 / best(1, 100_000_000):8.0f} Minsn/s")
        print(f"memcpy    {20_000 * 65536 / 1e9 / best(2, 20_000):8.2f} GB/s")
        state.rip = CODE
        started = time.process_time()
        for _ in range(EXITS):
            cpu.run()
        print(f"exit      {(time.process_time() - started) * 1e6 / EXITS:8.2f} us from run() to an exit and back")


if __name__ == "__main__":
    main()
