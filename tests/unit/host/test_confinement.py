"""What the host process gives up. Each test confines a process of its own: there is no way back."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap

import pytest

from pyxen.host.confinement import REFUSED_CALLS


def _run(code: str) -> str:
    program = "from pyxen.host.confinement import confine\nassert confine()\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", ["ptrace", "mount", "unshare", "bpf", "process_vm_readv", "fsmount", "io_uring_setup"])
def test_a_refused_call_answers_eperm(name: str) -> None:
    output = _run(
        f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({REFUSED_CALLS[name]}, -1, 0, 0, 0, 0, 0), ctypes.get_errno())
        """
    )
    assert output.split() == ["-1", str(errno.EPERM)]


def test_the_second_number_of_a_call_is_refused_too() -> None:
    """The x32 ABI names every call once more, which a list of numbers alone would not see."""
    output = _run(
        f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({0x40000000 | REFUSED_CALLS["ptrace"]}, -1, 0, 0, 0, 0, 0), ctypes.get_errno())
        """
    )
    assert output.split() == ["-1", str(errno.EPERM)]


def test_what_the_host_does_still_works() -> None:
    output = _run(
        """
        import mmap, os, socket, subprocess, sys, threading
        os.memfd_create("x")
        socket.socketpair()
        done = []
        thread = threading.Thread(target=done.append, args=(1,))
        thread.start(); thread.join()
        assert subprocess.run([sys.executable, "-c", "pass"]).returncode == 0
        print("NoNewPrivs:\\t1" in open("/proc/self/status").read(), done, "Seccomp:\\t2" in open("/proc/self/status").read())
        """
    )
    assert output.split() == ["True", "[1]", "True"]


def test_threads_from_before_are_confined_too() -> None:
    """Numerical libraries start some when they are loaded."""
    program = textwrap.dedent(
        """
        import threading
        from pathlib import Path
        from pyxen.host.confinement import confine
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        assert confine()
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        print("NoNewPrivs:\\t1" in status, "Seccomp:\\t2" in status)
        end.set()
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "True"]
