"""The same kernel and ramdisk on QEMU's software CPU, without Xen: how fast this machine emulates at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pexpect

PROGRAM = "qemu-system-x86_64"
MACHINE = ["-accel", "tcg", "-cpu", "qemu64,+rdrand", "-m", "256", "-nographic", "-no-reboot"]


def available() -> bool:
    """Whether QEMU is installed. The comparison is left out where it is not."""
    return shutil.which(PROGRAM) is not None


def boot(kernel: Path, ramdisk: Path, prompt: str, timeout: float) -> float:
    """Seconds from QEMU's start to the guest's prompt."""
    started = time.monotonic()
    guest = _start(kernel, ramdisk, "console=ttyS0 quiet", timeout)
    try:
        guest.expect_exact(prompt)
        return time.monotonic() - started
    finally:
        guest.close(force=True)


def run(kernel: Path, ramdisk: Path, switches: str, timeout: float) -> str:
    """The console of a guest that ends by itself."""
    guest = _start(kernel, ramdisk, f"console=ttyS0 quiet {switches}", timeout)
    try:
        guest.expect(pexpect.EOF)
        return str(guest.before).replace("\r", "")
    finally:
        guest.close(force=True)


def shell(kernel: Path, ramdisk: Path, devices: Sequence[str], timeout: float) -> pexpect.spawn[str]:
    """The console of a guest that boots to its shell; ``devices`` are more arguments for QEMU."""
    return _start(kernel, ramdisk, "console=ttyS0 quiet", timeout, devices)


def _start(kernel: Path, ramdisk: Path, command_line: str, timeout: float, devices: Sequence[str] = ()) -> pexpect.spawn[str]:
    arguments = [*MACHINE, *devices, "-kernel", str(kernel), "-initrd", str(ramdisk), "-append", command_line]
    return pexpect.spawn(PROGRAM, arguments, timeout=timeout, encoding="utf-8", codec_errors="replace")
