"""Event channels: operations and the two-level and FIFO layouts (public header event_channel.h)."""

from __future__ import annotations

from ctypes import Structure, Union, c_uint8, c_uint32, c_uint64

from pyxen.abi.xen import domid_t

evtchn_port_t = c_uint32
event_word_t = c_uint32

EVTCHNOP_bind_interdomain = 0
EVTCHNOP_bind_virq = 1
EVTCHNOP_bind_pirq = 2
EVTCHNOP_close = 3
EVTCHNOP_send = 4
EVTCHNOP_status = 5
EVTCHNOP_alloc_unbound = 6
EVTCHNOP_bind_ipi = 7
EVTCHNOP_bind_vcpu = 8
EVTCHNOP_unmask = 9
EVTCHNOP_reset = 10
EVTCHNOP_init_control = 11
EVTCHNOP_expand_array = 12
EVTCHNOP_set_priority = 13


class evtchn_alloc_unbound(Structure):
    """Allocate a port in ``dom`` to which ``remote_dom`` may bind."""

    _fields_ = [
        ("dom", domid_t),  # in
        ("remote_dom", domid_t),  # in
        ("port", evtchn_port_t),  # out
    ]


class evtchn_bind_interdomain(Structure):
    """Connect a new local port to an unbound port of another domain."""

    _fields_ = [
        ("remote_dom", domid_t),  # in
        ("remote_port", evtchn_port_t),  # in
        ("local_port", evtchn_port_t),  # out
    ]


class evtchn_bind_virq(Structure):
    """Bind a new port to a virtual interrupt."""

    _fields_ = [
        ("virq", c_uint32),  # in: VIRQ_* (xen.h)
        ("vcpu", c_uint32),  # in: 0 for a global one
        ("port", evtchn_port_t),  # out
    ]


BIND_PIRQ__WILL_SHARE = 1


class evtchn_bind_pirq(Structure):
    """Bind a new port to a physical interrupt."""

    _fields_ = [
        ("pirq", c_uint32),  # in
        ("flags", c_uint32),  # in: BIND_PIRQ__*
        ("port", evtchn_port_t),  # out
    ]


class evtchn_bind_ipi(Structure):
    """Allocate a port that notifies one vCPU of the same domain."""

    _fields_ = [
        ("vcpu", c_uint32),  # in
        ("port", evtchn_port_t),  # out
    ]


class evtchn_close(Structure):
    """Close a local port."""

    _fields_ = [("port", evtchn_port_t)]


class evtchn_send(Structure):
    """Notify the other end of a local port."""

    _fields_ = [("port", evtchn_port_t)]


EVTCHNSTAT_closed = 0
EVTCHNSTAT_unbound = 1
EVTCHNSTAT_interdomain = 2
EVTCHNSTAT_pirq = 3
EVTCHNSTAT_virq = 4
EVTCHNSTAT_ipi = 5


class evtchn_status_unbound(Structure):
    """Details for EVTCHNSTAT_unbound."""

    _fields_ = [("dom", domid_t)]


class evtchn_status_interdomain(Structure):
    """Details for EVTCHNSTAT_interdomain: the other end."""

    _fields_ = [("dom", domid_t), ("port", evtchn_port_t)]


class evtchn_status_u(Union):
    """Details of a port, as its status selects."""

    _fields_ = [
        ("unbound", evtchn_status_unbound),
        ("interdomain", evtchn_status_interdomain),
        ("pirq", c_uint32),
        ("virq", c_uint32),
    ]


class evtchn_status(Structure):
    """Ask for the state of a port."""

    _fields_ = [
        ("dom", domid_t),  # in
        ("port", evtchn_port_t),  # in
        ("status", c_uint32),  # out: EVTCHNSTAT_*
        ("vcpu", c_uint32),  # out: whom it notifies
        ("u", evtchn_status_u),  # out
    ]


class evtchn_bind_vcpu(Structure):
    """Say which vCPU a port notifies."""

    _fields_ = [("port", evtchn_port_t), ("vcpu", c_uint32)]


class evtchn_unmask(Structure):
    """Unmask a port, and notify if it is pending."""

    _fields_ = [("port", evtchn_port_t)]


class evtchn_reset(Structure):
    """Close all ports of a domain and go back to the two-level layout."""

    _fields_ = [("dom", domid_t)]


class evtchn_init_control(Structure):
    """Register the FIFO control block of a vCPU."""

    _fields_ = [
        ("control_gfn", c_uint64),  # in
        ("offset", c_uint32),  # in: bytes into the page
        ("vcpu", c_uint32),  # in
        ("link_bits", c_uint8),  # out: EVTCHN_FIFO_LINK_BITS
        ("_pad", c_uint8 * 7),
    ]


class evtchn_expand_array(Structure):
    """Add a page of event words to the FIFO layout."""

    _fields_ = [("array_gfn", c_uint64)]


class evtchn_set_priority(Structure):
    """Set the FIFO priority of a port."""

    _fields_ = [("port", evtchn_port_t), ("priority", c_uint32)]


class evtchn_op_u(Union):
    """Argument of the compatibility call."""

    _fields_ = [
        ("alloc_unbound", evtchn_alloc_unbound),
        ("bind_interdomain", evtchn_bind_interdomain),
        ("bind_virq", evtchn_bind_virq),
        ("bind_pirq", evtchn_bind_pirq),
        ("bind_ipi", evtchn_bind_ipi),
        ("close", evtchn_close),
        ("send", evtchn_send),
        ("status", evtchn_status),
        ("bind_vcpu", evtchn_bind_vcpu),
        ("unmask", evtchn_unmask),
    ]


class evtchn_op(Structure):
    """Argument of HYPERVISOR_event_channel_op_compat."""

    _fields_ = [("cmd", c_uint32), ("u", evtchn_op_u)]


# --- Two-level layout: bitmaps in shared_info --------------------------------------------------------------------------------

EVTCHN_2L_NR_CHANNELS = 4096

# --- FIFO layout: an array of event words, and a queue per priority ------------------------------------------------------------

EVTCHN_FIFO_PRIORITY_MAX = 0
EVTCHN_FIFO_PRIORITY_DEFAULT = 7
EVTCHN_FIFO_PRIORITY_MIN = 15
EVTCHN_FIFO_MAX_QUEUES = EVTCHN_FIFO_PRIORITY_MIN + 1

# Bit positions in an event word; its low bits are the port that follows in the queue, 0 at the end.
EVTCHN_FIFO_PENDING = 31
EVTCHN_FIFO_MASKED = 30
EVTCHN_FIFO_LINKED = 29
EVTCHN_FIFO_BUSY = 28
EVTCHN_FIFO_LINK_BITS = 17
EVTCHN_FIFO_LINK_MASK = (1 << EVTCHN_FIFO_LINK_BITS) - 1
EVTCHN_FIFO_NR_CHANNELS = 1 << EVTCHN_FIFO_LINK_BITS


class evtchn_fifo_control_block(Structure):
    """Per-vCPU heads of the queues."""

    _fields_ = [
        ("ready", c_uint32),  # bit n: queue n is not empty
        ("_rsvd", c_uint32),
        ("head", c_uint32 * EVTCHN_FIFO_MAX_QUEUES),
    ]
