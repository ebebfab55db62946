"""What the host's kernel says of its processors."""

from __future__ import annotations

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
#: It ticks at one rate whatever the processor does, and does not stop in its sleep.
_RELIABLE_COUNTER = {"constant_tsc", "nonstop_tsc"}


def has_reliable_counter(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether guests may read the time-stamp counter as it is (Xen's host_tsc_is_safe). A host that does not tell has none."""
    try:
        lines = cpu_info.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = [set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return bool(flags) and all(flag_set >= _RELIABLE_COUNTER for flag_set in flags)
