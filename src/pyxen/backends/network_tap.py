"""A vif on a bridge of the host, by a tap device, as Xen's script vif-bridge does it. Root only (CAP_NET_ADMIN)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from pyxen.abi.io.netif import XEN_NETIF_GSO_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6
from pyxen.backends.device import DeviceError
from pyxen.backends.network_attachment import Attachment, VifPort
from pyxen.backends.network_frame import CHECKSUM_OFFSET, Frame, completed, transport_of

_TUN = "/dev/net/tun"
_INTERFACES = Path("/sys/class/net")
# linux/if_tun.h
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 1, 2, 4
_NAME_BYTES = 15
# struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_HEADER = struct.Struct("<BBHHHH")
_NEEDS_CSUM, _DATA_VALID = 1, 2
_GSO_TO_TAP = {XEN_NETIF_GSO_TYPE_NONE: 0, XEN_NETIF_GSO_TYPE_TCPV4: 1, XEN_NETIF_GSO_TYPE_TCPV6: 4}
_GSO_FROM_TAP = {kind: xen for xen, kind in _GSO_TO_TAP.items()}
_GSO_ECN = 0x80
_RECEIVE_BYTES = _HEADER.size + 65550
#: Frames that are read in one turn.
_BATCH = 64


class TapAttachment(Attachment):
    """A tap device of the vif's name ("vif1.0") on a bridge."""

    def __init__(self, port: VifPort, bridge: str) -> None:
        super().__init__(port)
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._descriptor = -1
        self._reading = False

    async def open(self) -> None:
        """See ``Attachment``."""
        name = self.port.name
        if len(name) > _NAME_BYTES or "/" in name or (_INTERFACES / name).exists():
            raise DeviceError(errno.EEXIST, f"the host's interface for the vif can't be named {name!a}: it exists, or is no such name")
        try:
            self._descriptor = await asyncio.to_thread(_make_tap, name, self._bridge, self.port.mtu)
        except PermissionError:
            raise DeviceError(errno.EPERM, f"only root may attach to {self._bridge}, a bridge of this machine") from None
        except OSError as error:
            raise DeviceError(error.errno or errno.EIO, f"attaching to the bridge {self._bridge}: {error.strerror or error}") from None
        self._read_on()

    async def close(self) -> None:
        """The device goes with its descriptor."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    # -- from the guest -----------------------------------------------------------------------------------------------------
    def send(self, frames: Sequence[Frame]) -> None:
        """What the device's queue has no room for is lost, as on any interface."""
        if self._descriptor < 0:
            return
        for frame in frames:
            header, frame = _header(frame)
            try:
                os.writev(self._descriptor, [header, frame.data])
            except OSError:
                continue  # full, down, or a frame that the kernel does not want

    # -- to the guest -------------------------------------------------------------------------------------------------------
    def guest_has_room(self) -> None:
        self._read_on()

    def _read_on(self) -> None:
        if self._descriptor >= 0 and not self._reading:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._readable)

    def _readable(self) -> None:
        frames: list[Frame] = []
        try:
            while len(frames) < _BATCH:
                frames.append(_frame(os.read(self._descriptor, _RECEIVE_BYTES)))
        except BlockingIOError:
            pass
        except OSError:
            self._loop.remove_reader(self._descriptor)  # somebody has removed the device
            return
        self.port.deliver(frames)
        if not self.port.has_room():
            self._loop.remove_reader(self._descriptor)
            self._reading = False


def _make_tap(name: str, bridge: str, mtu: int) -> int:
    """On a worker thread. -> the device's descriptor. OSError."""
    # Only here: importing it takes longer than anything else at the host's start, and few need it.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", _HEADER.size))
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6)
        mtu = mtu or int((_INTERFACES / bridge / "mtu").read_text())
        with IPRoute() as netlink:
            (tap,), (master,) = netlink.link_lookup(ifname=name), netlink.link_lookup(ifname=bridge)
            netlink.link("set", index=tap, mtu=mtu, master=master, state="up")
    except NetlinkError as error:
        os.close(descriptor)
        raise OSError(error.code, os.strerror(error.code)) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _header(frame: Frame) -> tuple[bytes, Frame]:
    """The kernel's description of a frame; and the frame, completed where it can't be described."""
    where = transport_of(frame.data) if frame.blank or frame.gso_size else None
    if where is None:
        frame = completed(frame)
        return _HEADER.pack(_DATA_VALID if frame.validated else 0, 0, 0, 0, 0, 0), frame
    start, offset = where.transport, CHECKSUM_OFFSET[where.protocol]
    length = (start + (frame.data[start + 12] >> 4) * 4) if frame.gso_size else 0
    return _HEADER.pack(_NEEDS_CSUM, _GSO_TO_TAP[frame.gso_type], length, frame.gso_size, start, offset), frame


def _frame(octets: bytes) -> Frame:
    flags, kind, _, size, _, _ = _HEADER.unpack_from(octets)
    gso_type = _GSO_FROM_TAP.get(kind & ~_GSO_ECN, XEN_NETIF_GSO_TYPE_NONE)
    return Frame(octets[_HEADER.size :], bool(flags & _NEEDS_CSUM), bool(flags & _DATA_VALID), size if gso_type else 0, gso_type)
