"""Assembles the tests' guest code with gcc, which building the engine needs anyway."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from pyxen.engine.sandbox import CODE


@functools.cache
def assemble(source: str, address: int = CODE) -> bytes:
    """Machine code of Intel-syntax ``source``, to be run at ``address``; statements are separated by newlines or semicolons."""
    with tempfile.TemporaryDirectory() as folder:
        text, linked, flat = (Path(folder) / name for name in ("code.s", "code.elf", "code.bin"))
        text.write_text(f".intel_syntax noprefix\n.text\n.globl _start\n_start:\n{source}\n")
        subprocess.run(
            ["gcc", "-nostdlib", "-static", "-no-pie", f"-Wl,-Ttext={address:#x}", "-Wl,--build-id=none", "-o", linked, text],
            check=True,
            timeout=60,
        )
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", linked, flat], check=True, timeout=60)
        return flat.read_bytes()
