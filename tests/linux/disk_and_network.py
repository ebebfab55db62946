"""What a guest that has both a disk and a network does with them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.linux.host_services import served
from tests.linux.linux_guest import LinuxGuest
from tests.linux.network_guest import lease

SIZE = 4 << 20
#: Where the guest writes to the disk, in octets.
WRITTEN_AT = 1024


class DiskAndFile:
    """A disk image of random content, and a web server with a file of the same content."""

    def __init__(self, image: Path, content: bytes, port: int) -> None:
        self.image, self._content, self._port = image, content, port

    @property
    def disk(self) -> list[str]:
        """``disk=`` of the guest. The image's content is as at first."""
        self.image.write_bytes(self._content)
        return [f"{self.image},raw,xvda,w"]

    def use(self, guest: LinuxGuest, word: str) -> None:
        """The guest reads the disk, writes ``word`` to it, and gets an address and the file from the host."""
        checksum = hashlib.sha256(self._content).hexdigest()
        guest.run("if [ -e /bin/xen-blkfront.ko ]; then insmod /bin/xen-blkfront.ko; fi; until [ -b /dev/xvda ]; do sleep 0.1; done")
        assert guest.run("sha256sum </dev/xvda", 60).split()[0] == checksum
        guest.run(f"echo {word} | dd of=/dev/xvda bs=512 conv=sync seek={WRITTEN_AT // 512} 2>&-; sync")
        assert "bound 10.0.2.15/24 router 10.0.2.2" in lease(guest)
        assert guest.run(f"wget -q -O - http://10.0.2.2:{self._port}/file | sha256sum", 60).split()[0] == checksum

    def power_off(self, guest: LinuxGuest, word: str) -> None:
        """It switches itself off, and what it wrote is in the image."""
        guest.domain.console.send("poweroff\n")
        guest.domain.wait("destroyed", 60)
        assert self.image.read_bytes()[WRITTEN_AT:].startswith(f"{word}\n".encode())


@contextlib.contextmanager
def disk_and_file(folder: Path) -> Iterator[DiskAndFile]:
    """Both in files of an empty folder."""
    content = os.urandom(SIZE)
    web = folder / "www"
    web.mkdir()
    (web / "file").write_bytes(content)
    with served(web) as port:
        yield DiskAndFile(folder / "disk.img", content, port)
