"""Hypercalls in words: the names of their arguments and commands, and of the errors they answer."""

from __future__ import annotations

import errno
from types import ModuleType
from typing import Any

from pyxen.abi import callback, event_channel, grant_table, memory, nmi, physdev, sched, vcpu, version, xen

#: Argument names of each hypercall, as in Xen's headers. "cmd" is a number that has a name of its own.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "set_trap_table": ("traps",),
    "mmu_update": ("ureqs", "count", "pdone", "foreigndom"),
    "set_gdt": ("frame_list", "entries"),
    "stack_switch": ("ss", "esp"),
    "set_callbacks": ("event_address", "failsafe_address", "syscall_address"),
    "fpu_taskswitch": ("set",),
    "sched_op_compat": ("cmd", "arg"),
    "set_debugreg": ("reg", "value"),
    "get_debugreg": ("reg",),
    "update_descriptor": ("gaddr", "desc"),
    "memory_op": ("cmd", "arg"),
    "multicall": ("call_list", "nr_calls"),
    "update_va_mapping": ("va", "val", "flags"),
    "set_timer_op": ("timeout",),
    "xen_version": ("cmd", "arg"),
    "console_io": ("cmd", "count", "buffer"),
    "grant_table_op": ("cmd", "uop", "count"),
    "vm_assist": ("cmd", "type"),
    "update_va_mapping_otherdomain": ("va", "val", "flags", "domid"),
    "iret": (),
    "vcpu_op": ("cmd", "vcpuid", "arg"),
    "set_segment_base": ("which", "base"),
    "mmuext_op": ("uops", "count", "pdone", "foreigndom"),
    "nmi_op": ("cmd", "arg"),
    "sched_op": ("cmd", "arg"),
    "callback_op": ("cmd", "arg"),
    "event_channel_op": ("cmd", "arg"),
    "physdev_op": ("cmd", "arg"),
}

#: Hypercall -> where its commands' names are, and how they begin.
_COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "memory_op": (memory, "XENMEM_"),
    "xen_version": (version, "XENVER_"),
    "console_io": (xen, "CONSOLEIO_"),
    "grant_table_op": (grant_table, "GNTTABOP_"),
    "vm_assist": (xen, "VMASST_CMD_"),
    "vcpu_op": (vcpu, "VCPUOP_"),
    "nmi_op": (nmi, "XENNMI_"),
    "sched_op": (sched, "SCHEDOP_"),
    "sched_op_compat": (sched, "SCHEDOP_"),
    "callback_op": (callback, "CALLBACKOP_"),
    "event_channel_op": (event_channel, "EVTCHNOP_"),
    "physdev_op": (physdev, "PHYSDEVOP_"),
}

#: memory_op keeps the number of extents done in the bits above its command (MEMOP_EXTENT_SHIFT).
_MEMORY_COMMAND_MASK = 0x3F
_SMALL = 1 << 16


def _command_names() -> dict[str, dict[int, str]]:
    names: dict[str, dict[int, str]] = {}
    for hypercall, (module, prefix) in _COMMANDS.items():
        found: dict[int, str] = {}
        for name, value in vars(module).items():
            # The first of several names of one number is the original, the others are aliases and masks.
            if name.startswith(prefix) and type(value) is int:
                found.setdefault(value, name)
        names[hypercall] = found
    return names


_COMMAND_NAMES = _command_names()


def arguments(hypercall: str, values: tuple[int, ...]) -> dict[str, Any]:
    """The arguments by name: commands by their names, addresses and large numbers in hexadecimal."""
    names = _ARGUMENTS.get(hypercall)
    if names is None:
        names = tuple(f"a{number}" for number in range(1, len(values) + 1))
    return {name: _readable(hypercall, name, value) for name, value in zip(names, values, strict=False)}


def _readable(hypercall: str, name: str, value: int) -> int | str:
    if name == "cmd":
        number = value & _MEMORY_COMMAND_MASK if hypercall == "memory_op" else value
        return _COMMAND_NAMES.get(hypercall, {}).get(number, value)
    return value if 0 <= value < _SMALL else hex(value & (1 << 64) - 1)


def result_name(result: int | None) -> str:
    """ "-EINVAL" for an error, else nothing."""
    if result is None:
        return ""
    signed = result - (1 << 64) if result >= 1 << 63 else result
    if -4096 < signed < 0:
        return f"-{errno.errorcode.get(-signed, -signed)}"
    return ""


def signed_result(result: int | None) -> int | None:
    """A register's value as the C ``long`` that it is."""
    return result - (1 << 64) if result is not None and result >= 1 << 63 else result
