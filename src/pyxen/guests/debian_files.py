"""The files that make a bootstrapped Debian a guest: what is laid into its root file system while packages are installed.

None of them belongs to a package, so upgrades in the guest never ask about them.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

#: Where the finishing script and what it reads stand while the image is made.
WORK_FOLDER = ".pyxen"

_FSTAB = """\
UUID={uuid} / ext4 errors=remount-ro 0 1
"""

#: Read by GRUB's PV image and by pyxen's own pygrub. Debian keeps the links /vmlinuz and /initrd.img on the newest kernel, and
#: the .old ones on the one before, so this stays right through upgrades.
_GRUB_MENU = """\
# Made by pyxen image build. Yours to change: nothing writes it again.
set default=0
set timeout=1

menuentry 'Debian GNU/Linux' {{
	linux /vmlinuz root=UUID={uuid} ro console=hvc0 {arguments}
	initrd /initrd.img
}}

menuentry 'Debian GNU/Linux, the kernel before' {{
	linux /vmlinuz.old root=UUID={uuid} ro console=hvc0 {arguments}
	initrd /initrd.img.old
}}

menuentry 'Debian GNU/Linux, rescue mode' {{
	linux /vmlinuz root=UUID={uuid} ro console=hvc0 systemd.unit=rescue.target
	initrd /initrd.img
}}
"""

_NETWORK = """\
[Match]
Name=en* eth*

[Network]
DHCP=yes
"""

#: The default ramdisk has the drivers of all machines, and a domain would spend seconds on unpacking them.
_RAMDISK_MODULES = """\
MODULES=list
"""

_RAMDISK_HOOK = """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules xen-blkfront ext4 crc32c_generic crc32c_intel
"""

#: The first file is where mmdebstrap writes ``--dpkgopt``, which is meant for the build only.
_FINISH = """\
set -e
rm -f /etc/dpkg/dpkg.cfg.d/99mmdebstrap
chpasswd <password
[ ! -e authorized_keys ] || install -D -m 600 authorized_keys /root/.ssh/authorized_keys
cp hostname hosts /etc/
systemctl enable systemd-networkd.service systemd-resolved.service
systemctl disable systemd-networkd-wait-online.service
"""


@dataclass(frozen=True)
class GuestSettings:
    """What the user chooses of a guest's files. All of it has been checked."""

    uuid: str  #: of the root file system
    hostname: str
    root_password: str
    ssh_key: str = ""  #: lines of an authorized_keys file
    kernel_arguments: str = "quiet"


def early_files(settings: GuestSettings) -> bytes:
    """A tar archive of what must be there before the kernel's package is installed, which makes the initial ramdisk."""
    return _archive(
        {
            "etc/fstab": (_FSTAB.format(uuid=settings.uuid), 0o644),
            "etc/initramfs-tools/conf.d/pyxen": (_RAMDISK_MODULES, 0o644),
            "etc/initramfs-tools/hooks/pyxen": (_RAMDISK_HOOK, 0o755),
        }
    )


def late_files(settings: GuestSettings) -> bytes:
    """A tar archive of what comes after all packages: the boot menu, and ``WORK_FOLDER`` with the script ``finish``, to be run in it."""
    hosts = f"127.0.0.1 localhost\n127.0.1.1 {settings.hostname}\n::1 localhost ip6-localhost ip6-loopback\n"
    files = {
        "boot/grub/grub.cfg": (_GRUB_MENU.format(uuid=settings.uuid, arguments=settings.kernel_arguments), 0o644),
        "etc/systemd/network/80-dhcp.network": (_NETWORK, 0o644),
        f"{WORK_FOLDER}/finish": (_FINISH, 0o755),
        f"{WORK_FOLDER}/hostname": (f"{settings.hostname}\n", 0o644),
        f"{WORK_FOLDER}/hosts": (hosts, 0o644),
        f"{WORK_FOLDER}/password": (f"root:{settings.root_password}\n", 0o600),
    }
    if settings.ssh_key:
        files[f"{WORK_FOLDER}/authorized_keys"] = (settings.ssh_key.rstrip("\n") + "\n", 0o600)
    return _archive(files)


def _archive(files: dict[str, tuple[str, int]]) -> bytes:
    """Owned by root, and as old as the build is asked to be (SOURCE_DATE_EPOCH), or new."""
    buffer = io.BytesIO()
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        made: set[str] = set()
        for name, (text, mode) in files.items():
            for folder in _new_folders(name, made):
                member = tarfile.TarInfo(folder)
                member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, now
                archive.addfile(member)
            member = tarfile.TarInfo(name)
            content = text.encode()
            member.size, member.mode, member.mtime = len(content), mode, now
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _new_folders(name: str, made: set[str]) -> Iterator[str]:
    parts = name.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        if folder not in made:
            made.add(folder)
            yield folder
