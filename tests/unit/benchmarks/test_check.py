"""``make bench-check`` tells a broken promise from a kept one, and SPECIFICATION.md promises what it checks."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))

import check  # noqa: E402
import plot  # noqa: E402

RATES = dict.fromkeys(check._PV, 100.0)


@pytest.fixture
def good() -> dict[str, Any]:
    """Results that keep every promise by far."""
    return {
        "kernel": "6.1",
        "machine": {"cpu": "some", "cpus": 2, "python": "3.11"},
        "failed": {},
        "boot": {
            "median_s": 1.0,
            "with_host_start_s": 2.0,
            "python_exits": 1,
            "native_share": 1.0,
            "counters": {"tlb_flushes": 1},
            "stages_ms": {"request received": 0.0, "first guest instruction": 5.0},
        },
        "qemu_boot_s": 100.0,
        "rates": dict.fromkeys(RATES, 1000.0),
        "pvh_rates": dict.fromkeys(RATES, 1000.0),
        "qemu_rates": dict(RATES),
        "micro": {"hypercall_unknown": {"value": 1e6, "unit": "ns"}, "hypercall_xen_version": {"value": 1.0, "unit": "ns"}},
        "idle": {"memory_overhead_mib": 0.1, "exits_per_second": 0.1},
    }


def broken_by(result: dict[str, Any], promise: check.Promise) -> dict[str, Any]:
    """The results, changed so that this promise is broken: what it is made of is made bad one number at a time."""
    for path in _numbers(result):
        for bad in (0.0, 1e12):
            changed = copy.deepcopy(result)
            where = changed
            for key in path[:-1]:
                where = where[key]
            where[path[-1]] = bad
            try:
                value = promise.value(changed)
            except ZeroDivisionError:
                continue
            if not promise.kept(value):
                return changed
    raise AssertionError(f"nothing breaks: {promise.text}")


def _numbers(tree: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _numbers(value, (*path, key))
        elif isinstance(value, float | int):
            found.append((*path, key))
    return found


def test_all_kept(good: dict[str, Any]) -> None:
    verdict = check.check(good)
    assert len(verdict.kept) == len(check.PROMISES) and not verdict.broken and not verdict.unmeasured
    assert check.report(verdict) == 0


@pytest.mark.parametrize("promise", check.PROMISES, ids=lambda promise: promise.text)
def test_each_can_be_broken(good: dict[str, Any], promise: check.Promise, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = check.check(broken_by(good, promise))
    assert any(line.startswith(promise.text) for line in verdict.broken)
    assert check.report(verdict) == 1
    assert f"broken: {promise.text}" in capsys.readouterr().err


@pytest.mark.parametrize("bound", ["at_least", "at_most"])
def test_the_bound_itself_is_kept(bound: str) -> None:
    promise = check.Promise("p", lambda result: result["x"], **{bound: 5.0})
    assert promise.kept(5.0)
    assert promise.kept(4.9) == (bound == "at_most") and promise.kept(5.1) == (bound == "at_least")


def test_as_a_program(good: dict[str, Any], tmp_path: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        path.write_text(json.dumps(good))
        command = [sys.executable, str(ROOT / "benchmarks/check.py"), "--json", str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    path = tmp_path / "results.json"
    assert run().returncode == 0
    good["boot"]["python_exits"] = 10**9
    good["idle"]["memory_overhead_mib"] = 10**6
    result = run()
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 2


def test_without_qemu_and_with_a_failed_part(good: dict[str, Any]) -> None:
    good["qemu_rates"] = None
    del good["qemu_boot_s"]
    verdict = check.check(good)
    assert len(verdict.unmeasured) == 1 + 2 * len(RATES) and check.report(verdict) == 0
    good["failed"] = {"disks": "the guest's benchmark did not finish"}
    assert check.report(check.check(good)) == 1
    assert check.report(check.check({})) == 1


def test_the_specification_promises_what_is_checked() -> None:
    text = (ROOT / "SPECIFICATION.md").read_text()
    for promise in check.PROMISES:
        assert f"| {promise.text} | {promise.bound} |" in text


def test_picture(good: dict[str, Any], tmp_path: Path) -> None:
    plot.draw(good, tmp_path / "all.svg")
    assert ElementTree.parse(tmp_path / "all.svg").getroot().tag.endswith("svg")
    for part in ("micro", "qemu_rates"):
        del good[part]
    plot.draw(good, tmp_path / "some.png")
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
