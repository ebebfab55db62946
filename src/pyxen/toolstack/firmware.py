"""``firmware="pvgrub32|pvgrub64"`` (xl.cfg(5)): GRUB as the kernel, which reads the menu of the guest's own disk.

A PVH domain gets the same image by both names: it starts in 32-bit mode, and loads 32- and 64-bit kernels.
"""

from __future__ import annotations

from pathlib import Path

from pyxen.toolstack.builder.errors import KernelFileError
from pyxen.toolstack.builder.kernel_cache import default_cache_directory

_IMAGES = {"pv": "grub-x86_64-xen.bin", "pvh": "grub-i386-xen_pvh.bin"}
#: Where Debian's package grub-xen-host puts them.
_FOLDER = "usr/lib/grub-xen"


def firmware_image(kind: str, name: str) -> str:
    """The path of the image for a domain of type ``kind``: the machine's own, else that of the cache of guest packages.
    Raises ``KernelFileError``."""
    image = _IMAGES[kind]
    for root in (Path("/"), default_cache_directory() / "root"):
        path = root / _FOLDER / image
        if path.is_file():
            return str(path)
    raise KernelFileError(
        f"firmware {name}: there is no /{_FOLDER}/{image}: install Debian's package grub-xen-host, "
        "or let `pyxen demo` fetch the guest packages"
    )
