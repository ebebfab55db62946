"""Runs micro-guests: one hypervisor in this process, a new domain for each guest, its console ring read as Domain 0 reads it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyxen.abi.io.console import xencons_interface
from pyxen.engine.unicorn_engine import make_engine
from pyxen.hypervisor.dom0_interface import DomainInfo, HypercallError, ShutdownReason, TscMode
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.toolstack.builder.kernel_image import open_kernel
from pyxen.toolstack.builder.pv_builder import build_pv_domain, plan_pv_domain
from pyxen.toolstack.builder.pvh_builder import build_pvh_domain, plan_pvh_domain
from pyxen.toolstack.builder.pvh_kernel import open_pvh_kernel
from pyxen.toolstack.builder.ramdisk import Ramdisk, open_ramdisk
from pyxen.toolstack.builder.start_info import Connections

OUT_SIZE = xencons_interface.out.size
#: A guest that writes more than this is not read any further.
CONSOLE_LIMIT = 1 << 20
DESTROY_TIMEOUT_S = 5.0


@dataclass
class Outcome:
    """What became of a guest."""

    console: str
    ended: bool  #: False: it was still running when its time was over
    reason: ShutdownReason | None
    crash_cause: str
    seconds: float
    destroy_seconds: float

    @property
    def passed(self) -> bool:
        """Whether it printed RESULT PASS, and no FAIL."""
        lines = self.console.splitlines()
        return "RESULT PASS" in lines and not any(line.startswith("FAIL") for line in lines)

    def __str__(self) -> str:
        end = f"shutdown {self.reason.name}" if self.reason is not None else "still running"
        cause = f" ({self.crash_cause})" if self.crash_cause else ""
        failures = [line for line in self.console.splitlines() if line.startswith("FAIL")]
        return "\n".join([f"{end}{cause} after {self.seconds:.2f} s", *failures, "--- console ---", self.console])


class GuestConsole:
    """The backend's end of one guest's xencons ring."""

    def __init__(self, page: memoryview) -> None:
        self._ring = xencons_interface.from_buffer(page)
        self._text = bytearray()

    def drain(self) -> None:
        """Take what the guest wrote. Indices that make no sense are ignored, as a backend must."""
        consumed, produced = self._ring.out_cons, self._ring.out_prod
        count = (produced - consumed) & 0xFFFFFFFF
        if count > OUT_SIZE:
            return
        content = bytes(self._ring.out)
        start = consumed % OUT_SIZE
        text = (content + content)[start : start + count]
        if len(self._text) < CONSOLE_LIMIT:
            self._text += text
        self._ring.out_cons = produced

    def release(self) -> None:
        """Let go of the page."""
        del self._ring

    @property
    def text(self) -> str:
        return self._text.decode(errors="replace")


class Machine:
    """The hypervisor and its guests."""

    def __init__(self, memory_mib: int = 256, processors: int | None = None, *, tsc_is_reliable: bool = True) -> None:
        self.hypervisor = Hypervisor(
            make_engine, memory_bytes=memory_mib << 20, processors=processors, self_test=False, tsc_is_reliable=tsc_is_reliable
        )
        self._dom0 = self.hypervisor.dom0

    def close(self) -> None:
        """Stop everything."""
        self.hypervisor.close()

    def run(
        self,
        kernel: Path,
        *,
        kind: str = "pv",
        memory_mib: int = 8,
        vcpus: int = 1,
        timeout_s: float = 20.0,
        until: str = "",
        command_line: str = "",
        ramdisk: Path | None = None,
        tsc_mode: TscMode = TscMode.DEFAULT,
    ) -> Outcome:
        """Boot ``kernel`` and wait for its end, for the text ``until`` on its console, or for the time to be over; then destroy it.
        From any thread: guests may run side by side."""
        domid = self._dom0.create_domain(kind=kind, handle=os.urandom(16), max_vcpus=vcpus)
        try:
            self._dom0.set_tsc_info(domid, tsc_mode, invariant=tsc_mode is TscMode.ALWAYS_EMULATE)
            built = self._build(domid, kind, kernel, open_ramdisk(ramdisk) if ramdisk else None, command_line, memory_mib << 10, vcpus)
            page = self._dom0.map_foreign(domid, built.console_mfn)
            try:
                return self._watch(domid, GuestConsole(page), built.console_port, timeout_s, until)
            finally:
                with contextlib.suppress(BufferError):
                    page.release()
                self._dom0.unmap_foreign(domid, built.console_mfn)
        finally:
            with contextlib.suppress(HypercallError):
                self._dom0.destroy_domain(domid)

    def _build(
        self, domid: int, kind: str, kernel: Path, ramdisk: Ramdisk | None, command_line: str, memory_kib: int, vcpus: int
    ) -> Connections:
        if kind == "pv":
            return build_pv_domain(self._dom0, domid, plan_pv_domain(open_kernel(kernel), ramdisk, command_line, memory_kib))
        return build_pvh_domain(self._dom0, domid, plan_pvh_domain(open_pvh_kernel(kernel), ramdisk, command_line, memory_kib, vcpus))

    @contextlib.contextmanager
    def running(self, kernel: Path, *, memory_mib: int = 8, vcpus: int = 1, cpupool: int = 0) -> Iterator[int]:
        """A domain for a block, which nobody watches. Gives its id."""
        domid = self._dom0.create_domain(kind="pv", handle=os.urandom(16), max_vcpus=vcpus, cpupool=cpupool)
        try:
            build_pv_domain(self._dom0, domid, plan_pv_domain(open_kernel(kernel), None, "", memory_mib << 10))
            self._dom0.unpause_domain(domid)
            yield domid
        finally:
            with contextlib.suppress(HypercallError):
                self._dom0.destroy_domain(domid)

    def _watch(self, domid: int, console: GuestConsole, console_port: int, timeout_s: float, until: str) -> Outcome:
        changed = threading.Event()
        unsubscribe = self._dom0.subscribe_domain_exceptions(changed.set)
        port = self._dom0.bind_interdomain(domid, console_port, changed.set)
        started = time.monotonic()
        self._dom0.unpause_domain(domid)
        ended = False
        while time.monotonic() - started < timeout_s:
            changed.wait(0.5)
            changed.clear()
            ended = self._dom0.domain_info(domid).shutdown
            console.drain()
            self._notify(port)
            if ended or (until and until in console.text):
                break
        unsubscribe()
        console.drain()
        info = self._dom0.domain_info(domid)
        seconds = time.monotonic() - started
        console.release()
        destroy_started = time.monotonic()
        self._dom0.close_port(port)
        self._dom0.destroy_domain(domid)
        return Outcome(console.text, ended, info.shutdown_reason, info.crash_cause, seconds, time.monotonic() - destroy_started)

    def _notify(self, port: int) -> None:
        """Tell the guest that there is room again. A guest may have closed its end."""
        with contextlib.suppress(HypercallError):
            self._dom0.notify(port)

    def domains(self) -> list[DomainInfo]:
        """All but Domain 0."""
        return [info for info in self._dom0.list_domains() if info.domid]

    def log(self) -> str:
        """The hypervisor's log since the last call."""
        return self._dom0.read_console_ring(clear=True)

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Pause and unpause all guests without end during a block: every instruction of theirs may be the one where they are stopped."""
        stop = threading.Event()

        def disturb() -> None:
            while not stop.wait(0.0002):
                for info in self.domains():
                    with contextlib.suppress(HypercallError):
                        self._dom0.pause_domain(info.domid)
                        self._dom0.unpause_domain(info.domid)

        thread = threading.Thread(target=disturb, name="pausing")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def running_machine(processors: int | None = None) -> Iterator[Machine]:
    """A machine for a block."""
    machine = Machine(processors=processors)
    try:
        yield machine
    finally:
        machine.close()
