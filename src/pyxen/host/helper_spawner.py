"""Starts the host's helper programs, as a process of its own: ``helper_spawner.py CONTROL_FD NAME...``.

The host confines itself (``confinement``), and what it starts would inherit that; passt and QEMU's storage daemon sandbox themselves
with the very calls that the host gave up. So this process is started first, unconfined, and starts what the host asks it for: only
programs that its command line names, found in the folders of PATH. It knows nothing else, and imports nothing of pyxen.

It talks over one socket of kind SOCK_SEQPACKET, in JSON. Requests: {"start": id, "program": name, "arguments": [...]}
with the program's file descriptors attached, which become 2, 3, ... there, and {"signal": id, "number": n}. Answers: {"started": id,
"pid": n}, {"missing": id}, {"failed": id, "reason": text}, {"exited": id, "status": as ``subprocess``'s returncode}.

When the host goes, however it ends, the socket ends, and every helper is killed. When this process is killed, the kernel kills them
(PR_SET_PDEATHSIG), but for one that changed its user, which must end by itself when the sockets it got from the host do.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_MESSAGE_BYTES = 128 << 10
_MAX_DESCRIPTORS = 64
#: Where passed descriptors wait, out of the way of the numbers that they will have.
_HIGH_DESCRIPTOR = 100
_EXEC_FAILED = 127


class Spawner:
    """Serves one host."""

    def __init__(self, control: socket.socket, allowed: frozenset[str]) -> None:
        self._control = control
        self._allowed = allowed
        self._children: dict[int, tuple[int, int]] = {}  # by request id: process id, pidfd
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, None)
        self._libc = ctypes.CDLL(None)

    def serve(self) -> None:
        """Until the host is gone; then no helper is left."""
        try:
            while self._turn():
                pass
        finally:
            for pid, _ in self._children.values():
                _kill_group(pid, signal.SIGKILL)
            for pid, _ in self._children.values():
                os.waitpid(pid, 0)

    def _turn(self) -> bool:
        for key, _ in self._selector.select():
            if key.data is not None:
                self._reap(key.data)
                continue
            message, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
            if not message:
                return False
            try:
                self._obey(json.loads(message), descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        return True

    def _obey(self, request: dict[str, Any], descriptors: list[int]) -> None:
        if "signal" in request:
            if request["signal"] in self._children:
                _kill_group(self._children[request["signal"]][0], request["number"])
            return
        identifier, name = request["start"], request["program"]
        path = shutil.which(name) if name in self._allowed else None
        if path is None:
            self._answer(missing=identifier)
            return
        try:
            pid = self._start([path, *request["arguments"]], descriptors)
        except OSError as error:
            self._answer(failed=identifier, reason=str(error))
            return
        pidfd = os.pidfd_open(pid)
        self._children[identifier] = (pid, pidfd)
        self._selector.register(pidfd, selectors.EVENT_READ, identifier)
        self._answer(started=identifier, pid=pid)

    def _start(self, command: list[str], descriptors: list[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            self._become(command, descriptors, parent)
        except BaseException as error:
            print(f"cannot execute {command[0]}: {error}", file=sys.stderr, flush=True)
            os._exit(_EXEC_FAILED)

    def _become(self, command: list[str], descriptors: list[int], parent: int) -> NoReturn:
        """In the child: a session of its own, nothing open but what it was given, and dead when its parent is."""
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(_EXEC_FAILED)
        os.setsid()
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that would be inherited
            signal.signal(ignored, signal.SIG_DFL)
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR) for descriptor in descriptors]
        for number, descriptor in enumerate(high, 2):
            os.dup2(descriptor, number)
        os.closerange(2 + len(high), os.sysconf("SC_OPEN_MAX"))
        os.execv(command[0], command)

    def _reap(self, identifier: int) -> None:
        pid, pidfd = self._children.pop(identifier)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _kill_group(pid, signal.SIGKILL)  # what it may have left running; while it is not waited for, its number is not another's
        _, status = os.waitpid(pid, 0)
        self._answer(exited=identifier, status=os.waitstatus_to_exitcode(status))

    def _answer(self, **message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the host is gone; the next turn sees it
            self._control.send(json.dumps(message).encode())


def _kill_group(pid: int, number: int) -> None:
    """A helper leads a process group, once it has come so far: before, it is alone. One that has no member any more is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)


def main() -> None:
    Spawner(socket.socket(fileno=int(sys.argv[1])), frozenset(sys.argv[2:])).serve()


if __name__ == "__main__":
    main()
