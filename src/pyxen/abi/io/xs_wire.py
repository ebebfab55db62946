"""XenStore's wire protocol and its ring (public header io/xs_wire.h)."""

from __future__ import annotations

from ctypes import Structure, c_uint8, c_uint32

XENSTORE_RING_IDX = c_uint32

# xsd_sockmsg.type
XS_CONTROL = 0
XS_DEBUG = XS_CONTROL
XS_DIRECTORY = 1
XS_READ = 2
XS_GET_PERMS = 3
XS_WATCH = 4
XS_UNWATCH = 5
XS_TRANSACTION_START = 6
XS_TRANSACTION_END = 7
XS_INTRODUCE = 8
XS_RELEASE = 9
XS_GET_DOMAIN_PATH = 10
XS_WRITE = 11
XS_MKDIR = 12
XS_RM = 13
XS_SET_PERMS = 14
XS_WATCH_EVENT = 15
XS_ERROR = 16
XS_IS_DOMAIN_INTRODUCED = 17
XS_RESUME = 18
XS_SET_TARGET = 19
XS_RESET_WATCHES = 21
XS_DIRECTORY_PART = 22
XS_TYPE_COUNT = 23
XS_INVALID = 0xFFFF

XS_WRITE_NONE = "NONE"
XS_WRITE_CREATE = "CREATE"
XS_WRITE_CREATE_EXCL = "CREATE|EXCL"

# Errors travel by name; a client takes an unknown one for EINVAL.
xsd_errors = (
    "EINVAL",
    "EACCES",
    "EEXIST",
    "EISDIR",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EIO",
    "ENOTEMPTY",
    "ENOSYS",
    "EROFS",
    "EBUSY",
    "EAGAIN",
    "EISCONN",
    "E2BIG",
    "EPERM",
)


class xsd_sockmsg(Structure):
    """Header of every message, on the ring and on the socket; ``len`` bytes follow."""

    _fields_ = [
        ("type", c_uint32),  # XS_*
        ("req_id", c_uint32),  # given back in the reply
        ("tx_id", c_uint32),  # transaction; 0: none
        ("len", c_uint32),
    ]


# Parts of the payload of XS_WATCH_EVENT.
XS_WATCH_PATH = 0
XS_WATCH_TOKEN = 1

XENSTORE_PAYLOAD_MAX = 4096  # bytes; more ends the connection
XENSTORE_ABS_PATH_MAX = 3072  # bytes; more is an error
XENSTORE_REL_PATH_MAX = 2048

XENSTORE_RING_SIZE = 1024

# xenstore_domain_interface.server_features
XENSTORE_SERVER_FEATURE_RECONNECTION = 1
XENSTORE_SERVER_FEATURE_ERROR = 2

# xenstore_domain_interface.connection
XENSTORE_CONNECTED = 0
XENSTORE_RECONNECT = 1

# xenstore_domain_interface.error
XENSTORE_ERROR_NONE = 0
XENSTORE_ERROR_COMM = 1
XENSTORE_ERROR_RINGIDX = 2
XENSTORE_ERROR_PROTO = 3


class xenstore_domain_interface(Structure):
    """Page shared between a domain and XenStore. Indices run freely; a ring's offset is index % XENSTORE_RING_SIZE."""

    _fields_ = [
        ("req", c_uint8 * XENSTORE_RING_SIZE),  # from the domain
        ("rsp", c_uint8 * XENSTORE_RING_SIZE),  # to the domain: replies and watch events
        ("req_cons", XENSTORE_RING_IDX),
        ("req_prod", XENSTORE_RING_IDX),
        ("rsp_cons", XENSTORE_RING_IDX),
        ("rsp_prod", XENSTORE_RING_IDX),
        ("server_features", c_uint32),
        ("connection", c_uint32),
        ("error", c_uint32),
    ]
