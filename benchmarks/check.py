"""``make bench-check``: whether what SPECIFICATION.md promises holds. Only ratios and counts: they do not depend on the machine.

It measures what it needs in some minutes, or takes the results of ``make bench`` (``--json FILE``). A line on the standard error for
each promise that is broken, and then the exit status is 1. What was not measured (no QEMU here) is said, and is no failure; a part
that failed is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Promise:
    """``value`` raises KeyError or TypeError for results without what it needs. Exactly one bound is given."""

    text: str
    value: Callable[[Result], float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    def kept(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


def _of_boot(name: str) -> Callable[[Result], float]:
    return lambda result: float(result["boot"][name])


def _flushes(result: Result) -> float:
    return float(result["boot"]["counters"]["tlb_flushes"])


def _boot_ratio(result: Result) -> float:
    return float(result["qemu_boot_s"] / result["boot"]["median_s"])


def _rate_ratio(kind: str, name: str) -> Callable[[Result], float]:
    return lambda result: float(result[kind][name] / result["qemu_rates"][name])


def _micro_ratio(slow: str, fast: str) -> Callable[[Result], float]:
    return lambda result: float(result["micro"][slow]["value"] / result["micro"][fast]["value"])


def _of_idle(name: str) -> Callable[[Result], float]:
    return lambda result: float(result["idle"][name])


_PV = {"getpid": 0.4, "pipe_pingpong": 0.9, "fork_exit_wait": 0.6, "fork_exec_wait": 0.8, "page_faults": 0.6, "int_loop": 0.75}
_PV |= {"memcpy": 0.95, "sha256": 0.8}
_PVH = {"getpid": 0.7, "pipe_pingpong": 1.0, "fork_exit_wait": 1.0, "fork_exec_wait": 1.0, "page_faults": 0.9, "int_loop": 0.75}
_PVH |= {"memcpy": 0.95, "sha256": 0.75}

PROMISES = (
    Promise("exits that one boot of Debian makes to Python", _of_boot("python_exits"), at_most=8_000),
    Promise("share of a boot's traps and hypercalls that never leave the engine", _of_boot("native_share"), at_least=0.9),
    Promise("whole TLB flushes that one boot asks for", _flushes, at_most=40_000),
    Promise("boot on QEMU TCG without Xen, divided by ours", _boot_ratio, at_least=1.3),
    *(Promise(f"{name}: PV, divided by QEMU TCG without Xen", _rate_ratio("rates", name), at_least=bound) for name, bound in _PV.items()),
    *(
        Promise(f"{name}: PVH, divided by QEMU TCG without Xen", _rate_ratio("pvh_rates", name), at_least=bound)
        for name, bound in _PVH.items()
    ),
    Promise(
        "a hypercall served in Python, divided by one served in the engine",
        _micro_ratio("hypercall_unknown", "hypercall_xen_version"),
        at_least=10,
    ),
    Promise("memory of an idle guest beyond its RAM, in MiB", _of_idle("memory_overhead_mib"), at_most=24),
    Promise("exits that an idle guest makes to Python, a second", _of_idle("exits_per_second"), at_most=60),
)


@dataclass(frozen=True)
class Verdict:
    """What became of the promises, one line each."""

    kept: list[str]
    broken: list[str]
    unmeasured: list[str]


def check(result: Result) -> Verdict:
    """Compare results with the promises."""
    verdict = Verdict([], [], [])
    for promise in PROMISES:
        try:
            value = promise.value(result)
        except (KeyError, TypeError):
            verdict.unmeasured.append(f"{promise.text}: {promise.bound}")
            continue
        line = f"{promise.text}: {value:,.4g} ({promise.bound})"
        (verdict.kept if promise.kept(value) else verdict.broken).append(line)
    verdict.broken.extend(f"the part {part!r} failed: {cause}" for part, cause in result.get("failed", {}).items())
    return verdict


def report(verdict: Verdict) -> int:
    """Print it. -> the exit status."""
    for line in verdict.kept:
        print(f"kept: {line}")
    for line in verdict.unmeasured:
        print(f"not measured: {line}")
    for line in verdict.broken:
        print(f"broken: {line}", file=sys.stderr)
    if not verdict.kept and not verdict.broken:
        print("broken: nothing was measured", file=sys.stderr)
        return 1
    return 1 if verdict.broken else 0


def _measure() -> Result:
    from run import arguments, bench_console, measure

    return measure(arguments().parse_args(["--seconds", "1", "--guests", "4", "--only", "boot", "guest", "micro", "idle"]), bench_console())


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-check CHECK_ARGS=...", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="results of make bench; measured now if not given")
    options = parser.parse_args()
    try:
        result = json.loads(options.json.read_text()) if options.json else _measure()
    except (OSError, ValueError) as error:
        print(f"bench-check: {error}", file=sys.stderr)
        return 1
    return report(check(result))


if __name__ == "__main__":
    sys.exit(main())
