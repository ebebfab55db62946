"""Calls about disks, network interfaces and their backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyxen.host.protocol.common import DomainId, Method, Nothing, StreamMethod


@dataclass(frozen=True)
class CheckedDevice:
    """A device's specification, understood."""

    libxl: dict[str, Any]  #: as libxl's JSON has it


@dataclass(frozen=True)
class BlockAttachRequest:
    """A disk to hot-plug."""

    domid: int
    specification: str  #: as an entry of ``disk=``, xl-disk-configuration(5)
    working_directory: str = ""  #: where a relative path starts


@dataclass(frozen=True)
class BlockDetachRequest:
    """A disk to unplug."""

    domid: int
    vdev: str  #: its name or number: "xvdb", "51728"
    force: bool = False  #: whatever the guest does with it


@dataclass(frozen=True)
class MediumRequest:
    """What is to be in a CD drive."""

    domid: int
    vdev: str  #: the drive's name or number
    target: str  #: an image; empty: nothing
    working_directory: str = ""  #: where a relative path starts


@dataclass(frozen=True)
class BlockDevice:
    """A disk of a domain."""

    devid: int
    vdev: str
    target: str
    writable: bool
    state: int  #: of the backend, as in io/xenbus.h
    event_channel: int  #: -1: not connected
    ring_reference: int  #: -1: not connected
    backend_path: str


@dataclass(frozen=True)
class BlockDeviceList:
    """Disks by number."""

    devices: list[BlockDevice]


@dataclass(frozen=True)
class BackendRestartRequest:
    """A device whose backend is to be started anew."""

    domid: int
    device: str  #: a disk's name or number ("xvda"), "vif0", or its class and number ("vbd/51712", "vif/0")


@dataclass(frozen=True)
class NetworkAttachRequest:
    """A network interface to hot-plug."""

    domid: int
    specification: str  #: as an entry of ``vif=``, xl-network-configuration(5)


@dataclass(frozen=True)
class NetworkDetachRequest:
    """A network interface to unplug."""

    domid: int
    interface: str  #: its number or its MAC address
    force: bool = False  #: whatever the guest does with it


@dataclass(frozen=True)
class NetworkInterface:
    """A network interface of a domain."""

    devid: int
    mac: str
    state: int  #: of the backend, as in io/xenbus.h
    event_channel: int  #: -1: not connected
    tx_ring_reference: int  #: -1: not connected
    rx_ring_reference: int  #: -1: not connected
    backend_path: str
    bridge: str  #: a bridge of the host or a switch of pyxen's; empty: NAT
    rx_bytes: int = 0  #: as the host sees it: what it got from the guest
    rx_packets: int = 0
    rx_errors: int = 0
    tx_bytes: int = 0  #: what it gave to the guest
    tx_packets: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True)
class NetworkCaptureRequest:
    """An interface whose frames are wanted."""

    domid: int
    devid: int


@dataclass(frozen=True)
class CapturedData:
    """The next part of a capture file, as of pcap-savefile(5)."""

    data: bytes
    lost: int = 0  #: frames that are missing before this part


@dataclass(frozen=True)
class NetworkInterfaceList:
    """Interfaces by number."""

    interfaces: list[NetworkInterface]


#: Answers when the backend has the disk (not when the guest has found it).
BLOCK_ATTACH = Method("block.attach", BlockAttachRequest, Nothing)


#: What ``BLOCK_ATTACH`` would attach; nothing is.
BLOCK_CHECK = Method("block.check", BlockAttachRequest, CheckedDevice)


#: Answers when the guest has given the disk back.
BLOCK_DETACH = Method("block.detach", BlockDetachRequest, Nothing)


#: Answers when the backend has the new image. When it can't be used, the drive is empty.
BLOCK_MEDIUM = Method("block.medium", MediumRequest, Nothing)


BLOCK_LIST = Method("block.list", DomainId, BlockDeviceList)


#: Answers when the old backend holds nothing of the guest any more and the new one has begun.
BACKEND_RESTART = Method("backend.restart", BackendRestartRequest, Nothing)


#: Answers when the backend has the interface (not when the guest has found it).
NETWORK_ATTACH = Method("network.attach", NetworkAttachRequest, Nothing)


#: What ``NETWORK_ATTACH`` would attach; nothing is.
NETWORK_CHECK = Method("network.check", NetworkAttachRequest, CheckedDevice)


#: Answers when the guest has given the interface back.
NETWORK_DETACH = Method("network.detach", NetworkDetachRequest, Nothing)


NETWORK_LIST = Method("network.list", DomainId, NetworkInterfaceList)


#: Ends when the interface is gone.
NETWORK_CAPTURE = StreamMethod("network.capture", NetworkCaptureRequest, CapturedData, Nothing)
