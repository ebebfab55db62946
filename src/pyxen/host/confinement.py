"""What the host process gives up before it runs guests: new privileges, capabilities, and system calls that it never needs.

A guest that found a way to run code in the host process would have the rights of an ordinary process of its user, minus these. The filter
is a list of what is refused (with EPERM), because the libraries under Python use many others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_CALL = 317
_SECCOMP_SET_MODE_FILTER = 1
#: All threads of the process, not only the caller: numerical libraries start some as soon as they are loaded. They get "no new privileges"
#: with it.
_SECCOMP_FILTER_FLAG_TSYNC = 1
_LAST_CAPABILITY = 63

_BPF_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_BPF_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_BPF_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE
_BPF_RETURN = 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_ARCHITECTURE_X86_64 = 0xC000003E
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
#: The x32 ABI: the same architecture, and every call by a second number.
_FIRST_X32_CALL = 0x40000000

#: asm/unistd_64.h: calls of administrators, debuggers and module loaders.
REFUSED_CALLS = {
    "ptrace": 101,
    "pivot_root": 155,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
}


class ConfinementError(OSError):
    """The kernel refused what every Linux since 3.5 grants: no new privileges."""


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def confine() -> bool:
    """Give everything up. -> whether the filter is in place too (a kernel may have no seccomp). Raises ``ConfinementError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise ConfinementError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
    if os.geteuid() == 0:
        for capability in range(_LAST_CAPABILITY + 1):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # for children; numbers the kernel does not know are refused
    return platform.machine() == "x86_64" and _install_filter(libc)


def _install_filter(libc: ctypes.CDLL) -> bool:
    instructions = filter_program()
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.addressof(buffer))
    return bool(libc.syscall(_SECCOMP_CALL, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(program)) == 0)


def filter_program() -> bytes:
    """The filter for the kernel: other architectures' and the x32 ABI's calls are refused, those of ``REFUSED_CALLS`` too, the rest is
    allowed."""
    numbers = sorted(REFUSED_CALLS.values())
    instructions = [
        (_BPF_LOAD_WORD, 0, 0, _ARCHITECTURE_OFFSET),
        (_BPF_JUMP_EQUAL, 1, 0, _ARCHITECTURE_X86_64),
        (_BPF_RETURN, 0, 0, _REFUSE),
        (_BPF_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_BPF_JUMP_AT_LEAST, len(numbers) + 1, 0, _FIRST_X32_CALL),
    ]
    for index, number in enumerate(numbers):
        instructions.append((_BPF_JUMP_EQUAL, len(numbers) - index, 0, number))
    instructions += [(_BPF_RETURN, 0, 0, _ALLOW), (_BPF_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
