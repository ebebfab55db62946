"""Micro-benchmarks: what single operations take, in guests that consist of nothing else, and how fast such guests come and go.

The guests are those of ``micro/`` and ``tests/guests/programs/bench_hypercall.c``, built with the tests' framework for micro-guests.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_host import Bench, bench_host
from guest_image import Rate
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pyxen.host.client import Client
from pyxen.host.protocol import (
    CONSOLE_ATTACH,
    DOMAIN_CREATE,
    DOMAIN_DESTROY,
    DOMAIN_UNPAUSE,
    ConsoleAttachRequest,
    CreatedDomain,
    CreateRequest,
    DomainId,
)
from pyxen.host.runtime_directory import RuntimeDirectory

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tests' framework, which is no installed package

from tests.guests.build import PROGRAMS, Builder, read_program  # noqa: E402

MICRO = Path(__file__).parent / "micro"
#: Longer than any of the programs takes, in seconds.
TIMEOUT = 60.0
TITLE = "Micro-benchmarks"
#: What is printed, in this order: name -> what it is.
LINES = {
    "hypercall_xen_version": "null hypercall (xen_version, served in the engine)",
    "hypercall_unknown": "hypercall served in Python (one that does not exist)",
    "mmu_update_entry": "mmu_update, each entry of 64",
    "update_va_mapping": "update_va_mapping",
    "exception_and_iret": "exception of the kernel and iret",
    "event_upcall_and_iret": "event to oneself: send, upcall, iret",
    "user_syscall_and_iret": "system call of user mode and iret",
    "event_round_trip_domains": "event-channel round trip between two domains that sleep",
    "vcpu_switch": "context switch of two vCPUs on one CPU",
    "grant_copy_page": "grant copy of a page, a call each",
    "grant_copy_page_of_32": "grant copy of a page, 32 to a call",
    "grant_map_unmap": "grant map and unmap",
    "store_ring_read": "store: read, by a guest's ring",
    "store_ring_write": "store: write, by a guest's ring",
    "store_socket_read": "store: read, by the socket",
    "store_socket_write": "store: write, by the socket",
    "create_to_first_byte": "micro-guest: create to its first console byte (median)",
    "create_to_first_byte_best": "micro-guest: create to its first console byte (best)",
    "create_and_destroy": "domains created and destroyed",
}
_REQUESTS = 2000
_LIFE_CYCLES = 100


@dataclass(frozen=True)
class Guest:
    """A running micro-guest and its console."""

    domid: int
    lines: Iterator[str]

    def until(self, pattern: str) -> re.Match[str]:
        """The first line that matches. Raises ValueError when the guest ends without it."""
        said = []
        for line in self.lines:
            found = re.match(pattern, line)
            if found:
                return found
            said.append(line)
        raise ValueError(f"the micro-guest ended without {pattern!r}: {said[-10:]}")

    def rates(self) -> dict[str, Rate]:
        """Everything that it measured. Raises ValueError if it says that something is wrong."""
        rates = {}
        for line in self.lines:
            if line.startswith("FAIL"):
                raise ValueError(line)
            found = re.match(r"BENCH (\w+) (\d+) ns", line)
            if found:
                rates[found[1]] = Rate(float(found[2]), "ns")
        if not rates:
            raise ValueError("the micro-guest measured nothing")
        return rates


class MicroGuests:
    """Builds the programs and runs them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        sources = [*sorted(MICRO.glob("*.c")), PROGRAMS / "bench_hypercall.c"]
        self.kernels = Builder().build([read_program(source) for source in sources])
        self._number = 0

    def create(self, program: str, *, paused: bool = False, **settings: Any) -> CreatedDomain:
        """A domain with 8 MiB; ``settings`` are keys of its configuration."""
        self._number += 1
        config = {"name": f"micro{self._number}", "kernel": str(self.kernels[program]), "memory": 8, "on_poweroff": "destroy", **settings}
        return self._client.call(DOMAIN_CREATE, CreateRequest(config=config, paused=paused))

    def destroy(self, domid: int) -> None:
        self._client.call(DOMAIN_DESTROY, DomainId(domid))

    @contextmanager
    def running(self, program: str, **settings: Any) -> Iterator[Guest]:
        """The guest, with its console from the first byte on."""
        created = self.create(program, paused=True, **settings)
        with self._client.stream(CONSOLE_ATTACH, ConsoleAttachRequest(created.domid)) as output:
            output.read(TIMEOUT)
            self._client.call(DOMAIN_UNPAUSE, DomainId(created.domid))

            def lines() -> Iterator[str]:
                text = ""
                deadline = time.monotonic() + TIMEOUT
                while (piece := output.read(max(0.0, deadline - time.monotonic()))) is not None:
                    text += piece.data.decode(errors="replace").replace("\r", "")
                    *whole, text = text.split("\n")
                    yield from whole

            yield Guest(created.domid, lines())

    def first_byte(self, program: str) -> tuple[float, int]:
        """Seconds from the request to the first console byte that we see, and the domain."""
        started = time.monotonic()
        domid = self.create(program).domid
        with self._client.stream(CONSOLE_ATTACH, ConsoleAttachRequest(domid)) as output:
            while (piece := output.read(TIMEOUT)) is not None:
                if piece.data:
                    return time.monotonic() - started, domid
        raise ValueError("the micro-guest ended before its first output")


def measure(bench: Bench) -> dict[str, Rate]:
    """All of them. Raises ValueError for a guest that failed."""
    with bench.client() as client:
        guests = MicroGuests(client)
        rates: dict[str, Rate] = {}
        for program in ("bench_hypercall", "grants", "store"):
            with guests.running(program) as guest:
                rates |= guest.rates()
        with guests.running("vcpu_switch", vcpus=2, cpus="0") as guest:
            rates |= guest.rates()
        rates |= _between_domains(guests)
        rates |= _life_cycles(guests)
    rates |= _socket(RuntimeDirectory(bench.runtime).store_socket)
    return {name: rates[name] for name in LINES}


def _between_domains(guests: MicroGuests) -> dict[str, Rate]:
    """The one that answers must be told who will bind to its port: domain ids of a host of our own go up by one."""
    last = guests.create("greeting", paused=True).domid
    guests.destroy(last)
    with guests.running("event_peer", extra=f"remote={last + 2}") as answering:
        port = answering.until(r"PORT (\d+)")[1]
        with guests.running("event_peer", extra=f"peer={answering.domid} port={port}") as asking:
            if asking.domid != last + 2:
                raise ValueError(f"domain {asking.domid} was made where {last + 2} was to be: somebody else uses the benchmark's host")
            return asking.rates()


def _life_cycles(guests: MicroGuests) -> dict[str, Rate]:
    times = []
    started = time.monotonic()
    for _ in range(_LIFE_CYCLES):
        seconds, domid = guests.first_byte("greeting")
        times.append(seconds)
        guests.destroy(domid)
    elapsed = time.monotonic() - started
    return {
        "create_to_first_byte": Rate(1e9 * statistics.median(times), "ns"),
        "create_to_first_byte_best": Rate(1e9 * min(times), "ns"),
        "create_and_destroy": Rate(_LIFE_CYCLES / elapsed, "/s"),
    }


def _socket(path: Path) -> dict[str, Rate]:
    """One request after the other, as xenstore-read makes them (public header io/xs_wire.h)."""
    header = struct.Struct("<4I")
    read, write = 2, 11
    rates = {}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        for name, kind, payload in (
            ("store_socket_read", read, b"/local/domain/0/name\0"),
            ("store_socket_write", write, b"/local/domain/0/data/benchmark\0value"),
        ):
            request = header.pack(kind, 0, 0, len(payload)) + payload
            started = time.monotonic()
            for _ in range(_REQUESTS):
                connection.sendall(request)
                answer = connection.recv(4096)
                if header.unpack_from(answer)[0] != kind:
                    raise ValueError(f"the store refused: {answer!r}")
            rates[name] = Rate(1e9 * (time.monotonic() - started) / _REQUESTS, "ns")
    return rates


def table(rates: dict[str, Rate]) -> Table:
    table = Table(title=TITLE, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "each", "a second"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, what in LINES.items():
        rate = rates[name]
        if rate.unit == "ns":
            table.add_row(what, _time(rate.value), f"{1e9 / rate.value:,.0f}")
        else:
            table.add_row(what, _time(1e9 / rate.value), f"{rate.value:,.1f}")
    return table


def _time(nanoseconds: float) -> str:
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if nanoseconds < limit:
            return f"{nanoseconds / divisor:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s"


if __name__ == "__main__":
    # Only this: python benchmarks/micro.py
    with bench_host(Path(os.devnull), Path(os.devnull)) as bench:
        Console(width=120).print(table(measure(bench)))
