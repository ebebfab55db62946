"""Network device rings (public header io/netif.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_int16, c_uint8, c_uint16, c_uint32

from pyxen.abi.grant_table import grant_ref_t

XEN_NETIF_NR_SLOTS_MIN = 18  # slots for one packet that every backend takes
XEN_NETIF_MAX_TX_SIZE = 0xFFFF  # bytes

NETIF_RSP_OKAY = 0
NETIF_RSP_ERROR = -1
NETIF_RSP_DROPPED = -2
NETIF_RSP_NULL = 1  # answers the slot of an extra_info

# --- Frontend to backend -----------------------------------------------------------------------------------------------------

NETTXF_csum_blank = 1 << 0  # the checksum is to be completed
NETTXF_data_validated = 1 << 1
NETTXF_more_data = 1 << 2  # the packet goes on in the next slot
NETTXF_extra_info = 1 << 3  # extra_info slots follow


class netif_tx_request(Structure):
    """A fragment of a packet; ``size`` of the first is that of the whole packet."""

    _fields_ = [
        ("gref", grant_ref_t),
        ("offset", c_uint16),  # bytes into the page
        ("flags", c_uint16),  # NETTXF_*
        ("id", c_uint16),
        ("size", c_uint16),  # bytes
    ]


class netif_tx_response(Structure):
    """Answer to a fragment."""

    _fields_ = [
        ("id", c_uint16),
        ("status", c_int16),  # NETIF_RSP_*
    ]


class netif_tx_sring_entry(Union):
    """Slot of the transmit ring."""

    _fields_ = [("req", netif_tx_request), ("rsp", netif_tx_response)]


# --- Backend to frontend -----------------------------------------------------------------------------------------------------

NETRXF_data_validated = 1 << 0
NETRXF_csum_blank = 1 << 1
NETRXF_more_data = 1 << 2
NETRXF_extra_info = 1 << 3
NETRXF_gso_prefix = 1 << 4


class netif_rx_request(Structure):
    """A page that the frontend offers for received data."""

    _fields_ = [
        ("id", c_uint16),
        ("pad", c_uint16),
        ("gref", grant_ref_t),
    ]


class netif_rx_response(Structure):
    """Data that arrived in an offered page."""

    _fields_ = [
        ("id", c_uint16),
        ("offset", c_uint16),  # bytes into the page
        ("flags", c_uint16),  # NETRXF_*
        ("status", c_int16),  # bytes received, or a negative NETIF_RSP_*
    ]


class netif_rx_sring_entry(Union):
    """Slot of the receive ring."""

    _fields_ = [("req", netif_rx_request), ("rsp", netif_rx_response)]


# --- Slots that say more about a packet --------------------------------------------------------------------------------------

XEN_NETIF_EXTRA_TYPE_NONE = 0
XEN_NETIF_EXTRA_TYPE_GSO = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3
XEN_NETIF_EXTRA_TYPE_HASH = 4
XEN_NETIF_EXTRA_TYPE_MAX = 5
XEN_NETIF_EXTRA_FLAG_MORE = 1 << 0  # another one follows

XEN_NETIF_GSO_TYPE_NONE = 0
XEN_NETIF_GSO_TYPE_TCPV4 = 1
XEN_NETIF_GSO_TYPE_TCPV6 = 2


class netif_extra_info_gso(Structure):
    """Segmentation offload."""

    _fields_ = [
        ("size", c_uint16),  # largest payload of a segment in bytes
        ("type", c_uint8),  # XEN_NETIF_GSO_TYPE_*
        ("pad", c_uint8),
        ("features", c_uint16),
    ]


class netif_extra_info_mcast(Structure):
    """Multicast address to add or delete."""

    _fields_ = [("addr", c_uint8 * 6)]


class netif_extra_info_hash(Structure):
    """Hash of a packet."""

    _fields_ = [
        ("type", c_uint8),  # bit position of XEN_NETIF_CTRL_HASH_TYPE_*
        ("algorithm", c_uint8),  # XEN_NETIF_CTRL_HASH_ALGORITHM_*
        ("value", c_uint8 * 4),
    ]


class netif_extra_info_u(Union):
    """Details, as the type selects."""

    _fields_ = [
        ("gso", netif_extra_info_gso),
        ("mcast", netif_extra_info_mcast),
        ("hash", netif_extra_info_hash),
        ("pad", c_uint16 * 3),
    ]


class netif_extra_info(Structure):
    """Takes the place of a request or response in its ring."""

    _fields_ = [
        ("type", c_uint8),  # XEN_NETIF_EXTRA_TYPE_*
        ("flags", c_uint8),  # XEN_NETIF_EXTRA_FLAG_*
        ("u", netif_extra_info_u),
    ]


# --- Control ring ------------------------------------------------------------------------------------------------------------

XEN_NETIF_CTRL_HASH_TYPE_IPV4 = 1 << 0
XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP = 1 << 1
XEN_NETIF_CTRL_HASH_TYPE_IPV6 = 1 << 2
XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP = 1 << 3
XEN_NETIF_CTRL_HASH_ALGORITHM_NONE = 0
XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ = 1

XEN_NETIF_CTRL_TYPE_INVALID = 0
XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS = 1
XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS = 2
XEN_NETIF_CTRL_TYPE_SET_HASH_KEY = 3
XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE = 4
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE = 5
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING = 6
XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM = 7
XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE = 8
XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING = 9
XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING = 10

XEN_NETIF_CTRL_STATUS_SUCCESS = 0
XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED = 1
XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER = 2
XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW = 3


class netif_ctrl_request(Structure):
    """Request to the backend."""

    _fields_ = [
        ("id", c_uint16),
        ("type", c_uint16),  # XEN_NETIF_CTRL_TYPE_*
        ("data", c_uint32 * 3),
    ]


class netif_ctrl_response(Structure):
    """Its answer."""

    _fields_ = [
        ("id", c_uint16),
        ("type", c_uint16),
        ("status", c_uint32),  # XEN_NETIF_CTRL_STATUS_*
        ("data", c_uint32),
    ]


class netif_ctrl_sring_entry(Union):
    """Slot of the control ring."""

    _fields_ = [("req", netif_ctrl_request), ("rsp", netif_ctrl_response)]


XEN_NETIF_CTRLF_GREF_readonly = 1 << 0


class netif_gref(Structure):
    """Page that the backend may keep mapped."""

    _fields_ = [
        ("ref", grant_ref_t),
        ("flags", c_uint16),  # XEN_NETIF_CTRLF_*
        ("status", c_uint16),  # out: XEN_NETIF_CTRL_STATUS_*
    ]
