"""What the same programs reached elsewhere, as a yardstick.

Measured on the development machine (2 shared x86-64 cores, medians of 3): Debian 12's kernel 6.1 with the same ramdisk on QEMU 7.2's
software CPU (``-smp 1 -cpu qemu64,+rdrand``), once bare and once as a PV domU of real Xen 4.17 that ran in that QEMU. Absolute
figures hold for that machine only: on another one, compare with the column that is measured there (QEMU, when it is installed).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """Figures of one other way to run the guest; ``boot`` in seconds, ``rates`` in the units of ``bench.c``."""

    name: str
    boot: float
    rates: dict[str, float]


XEN_IN_QEMU = Peer(
    "Xen 4.17 PV in QEMU TCG",
    14.9,
    {
        "getpid": 23_500,
        "pipe_pingpong": 1_843,
        "fork_exit_wait": 176,
        "fork_exec_wait": 51,
        "page_faults": 8_700,
        "int_loop": 2_900,
        "memcpy": 0.98,
        "sha256": 29.8,
    },
)

BARE_QEMU = Peer(
    "QEMU TCG, no Xen",
    5.35,
    {
        "getpid": 1_188_000,
        "pipe_pingpong": 7_485,
        "fork_exit_wait": 712,
        "fork_exec_wait": 127,
        "page_faults": 71_500,
        "int_loop": 3_135,
        "memcpy": 1.63,
        "sha256": 29.1,
    },
)
