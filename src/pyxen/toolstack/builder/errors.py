"""What can be wrong with a kernel, a ramdisk or a domain's configuration. Each message is one line for the user."""

from __future__ import annotations


class BuilderError(Exception):
    """The domain can't be built, and the files or the configuration are to blame. ``str()`` is one line that says the remedy."""


class KernelFileError(BuilderError):
    """The kernel file is missing, unreadable, empty, or no regular file."""


class KernelFormatError(BuilderError):
    """The kernel file is truncated or corrupt, or its fields contradict each other."""


class KernelUnsupportedError(BuilderError):
    """A sound file, but of a kind that can't run as a PV64 domain: another architecture, no Xen notes, a missing feature."""


class RamdiskError(BuilderError):
    """The ramdisk is missing, unreadable, changed while it was read, or larger than the domain's memory."""


class CommandLineError(BuilderError):
    """The kernel's command line is too long or has a NUL in it."""


class MemoryTooSmallError(BuilderError):
    """Kernel, ramdisk and tables don't fit in the domain's memory. ``needed_kib`` is the least that lets them be loaded."""

    def __init__(self, message: str, needed_kib: int) -> None:
        super().__init__(message)
        self.needed_kib = needed_kib


class HostMemoryError(BuilderError):
    """The host has not enough free memory for the domain."""


def printable(untrusted: bytes | str, limit: int = 60) -> str:
    """Text from a file as it may appear in a message: quoted, ASCII, control characters escaped, cut to ``limit`` characters."""
    text = untrusted.decode("latin-1") if isinstance(untrusted, bytes) else untrusted
    return ascii(text if len(text) <= limit else text[:limit] + "...")
