"""What every engine build must prove before a guest runs on it. Fast: this is done at each start of the host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pyxen.engine.interface import EngineError, EngineFactory, ExitReason
from pyxen.engine.sandbox import CODE, DATA, PAGE, PRESENT, USER, WRITE, Sandbox

_GENERAL_PROTECTION = 13
_PAGE_FAULT = 14
_KICKS = 50
_KICK_SECONDS = 5.0  #: far more than the kicks need, even on a busy machine

#: lock inc [DATA]; inc [DATA+8]; add [DATA+16],1; inc rcx; jmp back
_COUNTING_LOOP = bytes.fromhex("f048ff042500000200 48ff042508000200 488304251000020001 48ffc1 ebde")
_SYSCALL = b"\x0f\x05"


def _expect(condition: bool, promise: str) -> None:
    if not condition:
        raise EngineError(f"the CPU engine failed its self-test ({promise}): rebuild it with make, or reinstall pyxen")


def _kicks_split_nothing(box: Sandbox) -> None:
    cpu = box.cpu(_COUNTING_LOOP)
    stop = threading.Event()

    def kicker() -> None:
        while not stop.is_set():
            cpu.kick()
            time.sleep(0.0001)

    thread = threading.Thread(target=kicker, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _KICK_SECONDS
        kicks = 0
        while kicks < _KICKS and time.monotonic() < deadline:
            _expect(cpu.run() == ExitReason.KICK, "a kick is the only way out of a loop")
            kicks += 1
            counts = {box.read(DATA), box.read(DATA + 8), box.read(DATA + 16), cpu.state.rcx}
            _expect(len(counts) == 1, "a kick never splits or repeats an instruction")
    finally:
        stop.set()
        thread.join()
    _expect(kicks == _KICKS, "kicks arrive")


def _kicks_are_sticky(box: Sandbox) -> None:
    cpu = box.cpu(_COUNTING_LOOP)
    cpu.kick()
    _expect(cpu.run() == ExitReason.KICK and cpu.state.rip == CODE, "a kick before a run is not lost")


def _faults_do_not_stick(box: Sandbox) -> None:
    cpu = box.cpu(bytes.fromhex("488b042500005000"))  # mov rax,[0x500000], not mapped
    for _ in range(4):
        reason = cpu.run()
        state = cpu.state
        _expect(reason == ExitReason.EXCEPTION and state.vector == _PAGE_FAULT, "a fault after a fault is the same fault")
        _expect(state.rip == CODE and state.cr2 == 0x500000 and state.error_code == 0, "a page fault is described exactly")


def _port_io_faults(box: Sandbox) -> None:
    for cpl in (1, 3):
        for code in (b"\xec", b"\xee", b"\x6c", b"\x6e", b"\xe4\x10"):
            cpu = box.cpu(code, cpl=cpl)
            reason = cpu.run()
            _expect(reason == ExitReason.EXCEPTION and cpu.state.vector == _GENERAL_PROTECTION, "port I/O without privilege faults")
            cpu.close()


def _flags_survive(box: Sandbox) -> None:
    cpu = box.cpu(_SYSCALL)
    for flags in (0x2, 0x8D7, 0x40CD7, 0x3202, 0x200246, 0x602):
        cpu.state.rip = CODE
        cpu.state.rflags = flags
        _expect(cpu.run() == ExitReason.SYSCALL and cpu.state.rflags == flags, "flags are carried in and out unchanged")


def _no_stale_code(box: Sandbox) -> None:
    def returns(value: int) -> bytes:
        return b"\xb8" + value.to_bytes(4, "little") + _SYSCALL  # mov eax,value; syscall

    cpu = box.cpu(returns(1))
    cpu.run()
    _expect(cpu.state.rax == 1 and box.engine.has_translated_code(CODE // PAGE), "the engine knows which frames hold translated code")
    box.run_code(cpu, returns(2))
    _expect(cpu.state.rax == 2, "code written by the hypervisor is noticed")
    # Through another address: mov byte [alias+1],3; then the same code again.
    alias = 0x600000
    box.map(alias, CODE, PRESENT | WRITE | USER)
    box.load(bytes.fromhex("c6042501006000 03") + _SYSCALL, DATA)
    for target in (DATA, CODE):
        cpu.state.rip = target
        cpu.run()
    _expect(cpu.state.rax == 3, "code written through another address is noticed")


_CHECKS: tuple[Callable[[Sandbox], None], ...] = (
    _kicks_are_sticky,
    _kicks_split_nothing,
    _faults_do_not_stick,
    _port_io_faults,
    _flags_survive,
    _no_stale_code,
)


def run_self_test(make_engine: EngineFactory) -> None:
    """Runs every check on throw-away vCPUs. Raises ``EngineError`` naming the promise that does not hold."""
    for check in _CHECKS:
        with Sandbox(make_engine) as box:
            check(box)
