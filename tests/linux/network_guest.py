"""Linux guests with the network frontend loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pyxen.guests.packages import GuestPackages
from pyxen.guests.ramdisk import Ramdisk
from tests.linux.linux_guest import BootLinux, LinuxGuest, linux_host

MODULE = "xen-netfront"

#: udhcpc's script: what a distribution's does, and the interface's largest packet as the server says it.
_UDHCPC_SCRIPT = b"""#!/bin/busybox sh
case $1 in
bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/$mask dev $interface
    [ -z "$mtu" ] || ip link set $interface mtu $mtu
    [ -z "$router" ] || ip route add default via $router
    for server in $dns; do echo nameserver $server; done >/etc/resolv.conf
    echo "bound $ip/$mask router $router mtu $mtu"
esac
"""


def network_ramdisk(packages: GuestPackages, **more: bytes) -> Path:
    """A ramdisk with the network frontend, if it is not built into the kernel."""
    module = packages.module(MODULE)
    files = {f"{MODULE}.ko": module} if module is not None else {}
    return Ramdisk(packages.busybox, files | {"udhcpc.script": _UDHCPC_SCRIPT} | more).cached()


@contextlib.contextmanager
def network_host(packages: GuestPackages, ramdisk: Path) -> Iterator[BootLinux]:
    """As ``linux_host``; its guests have eth0, if they have any, up and without an address."""
    with linux_host(packages, ramdisk) as boot:

        def boot_and_load(name: str = "linux", **settings: object) -> LinuxGuest:
            settings = {"vif": [""]} | settings
            guest = boot(name, **settings)
            if packages.module(MODULE) is not None:
                guest.run(f"insmod /bin/{MODULE}.ko")
            if settings["vif"]:
                guest.run("ip link set eth0 up")
            return guest

        yield boot_and_load


def lease(guest: LinuxGuest) -> str:
    """Ask for an address by DHCP. -> what was given."""
    return guest.run("udhcpc -i eth0 -n -q -t 20 -T 1 -s /bin/udhcpc.script -O mtu 2>&1", 60)
