"""The micro-benchmarks' guests do what they measure: each says that nothing failed, and gives every figure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import micro
from bench_host import bench_host

pytestmark = [pytest.mark.timeout(180), pytest.mark.guest]


def test_all_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "_LIFE_CYCLES", 3)
    monkeypatch.setattr(micro, "_REQUESTS", 20)
    with bench_host(Path(os.devnull), Path(os.devnull)) as bench:
        rates = micro.measure(bench)
        with bench.client() as client, pytest.raises(ValueError, match="ended"):
            # What a guest gets wrong is not taken for a result: there is no domain 500 to bind to.
            guests = micro.MicroGuests(client)
            with guests.running("event_peer", extra="peer=500 port=1") as guest:
                guest.until("BENCH")
    assert list(rates) == list(micro.LINES)
    assert all(rate.value > 0 for rate in rates.values())
