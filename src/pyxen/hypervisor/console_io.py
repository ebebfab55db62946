"""console_io: a guest's emergency console, which ends in the hypervisor's log (and in Xen's, too, rate limited)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.abi.xen import CONSOLEIO_write
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.preemption import Preempted

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

MAX_COUNT = (1 << 31) - 1
#: Octets taken in one execution; a longer call is continued.
LONGEST_WRITE = 512
LONGEST_LINE = 1024


def console_io(vcpu: Vcpu, command: int, count: int, address: int) -> int:
    """CONSOLEIO_write: whole lines go to the log. CONSOLEIO_read is Domain 0's: -EPERM. -E2BIG, -EFAULT."""
    if command != CONSOLEIO_write:
        return -errno.EPERM
    if count > MAX_COUNT:
        return -errno.E2BIG
    untrusted = guest_access.read(vcpu, address, min(count, LONGEST_WRITE)) if count else b""
    text = vcpu.domain.console_tail + untrusted.decode("latin-1")
    *lines, tail = text.replace("\r", "").split("\n")
    for line in lines:
        vcpu.hypervisor.guest_log(vcpu.domain.domid, _printable(line))
    vcpu.domain.console_tail = tail[-LONGEST_LINE:]
    if count > LONGEST_WRITE:
        raise Preempted(command, count - LONGEST_WRITE, address + LONGEST_WRITE)
    return 0


def _printable(line: str) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in line[:LONGEST_LINE])
