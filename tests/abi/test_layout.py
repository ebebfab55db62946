"""Compare pyxen.abi with Xen's public headers: a C program, compiled against them, prints every size, offset and value.

What to compare is found by introspection of ``pyxen.abi``, and what the headers define by reading them, so that neither a wrong
nor a forgotten name can pass. The headers are those of Debian's libxen-dev.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pyxen.abi
from pyxen.abi import arch_x86_64, grant_table, memory, xen
from pyxen.abi.io import blkif, netif, ring, xs_wire
from pyxen.guests import packages

# --- Which header stands behind a module ---------------------------------------------------------------------------------------

HEADERS = {
    "xen": ["xen.h", "xen-compat.h"],
    "arch_x86_64": ["arch-x86/xen.h", "arch-x86/xen-x86_64.h", "arch-x86/cpuid.h"],
    "hvm.start_info": ["arch-x86/hvm/start_info.h"],
    "control": ["domctl.h", "sysctl.h", "platform.h"],
}

# Of these we have the beginnings only: the embedded Domain 0 calls the hypervisor by ``dom0_interface``.
HEADS_ONLY = {"domctl.h", "sysctl.h", "platform.h"}

# --- Where the two sides differ on purpose -------------------------------------------------------------------------------------

# Names that exist in pyxen.abi only: values that Xen's headers tell in a comment, or compute without naming them.
OURS_ONLY = {
    "TI_DPL_MASK",
    "TI_IF",
    "START_INFO_MAGIC",
    "XEN_ELFNOTE_NAME",
    "XEN_GUEST_SECTION",
    "E820_RAM",
    "E820_RESERVED",
    "E820_ACPI",
    "E820_NVS",
    "E820_UNUSABLE",
    "e820entry",
    "guest_handle_t",
    "guest_long",
}

# Constants and types that are called otherwise in C.
C_EXPRESSIONS = {
    "XEN_LATEST_INTERFACE_VERSION": "__XEN_LATEST_INTERFACE_VERSION__",
    "HYPERVISOR_VIRT_START": "__HYPERVISOR_VIRT_START",
    "HYPERVISOR_VIRT_END": "__HYPERVISOR_VIRT_END",
    "XEN_COMMANDLINE_LEN": "sizeof(xen_commandline_t)",
    "sring": "struct blkif_sring",
    "sring_pvt": "__typeof__(((struct blkif_sring *)0)->pvt)",
    "blkif_sring_entry": "union blkif_sring_entry",
    "netif_tx_sring_entry": "union netif_tx_sring_entry",
    "netif_rx_sring_entry": "union netif_rx_sring_entry",
    "netif_ctrl_sring_entry": "union xen_netif_ctrl_sring_entry",
    "uuid": "xen_uuid_t",
    "physdev_pci_physfn": "__typeof__(((struct physdev_pci_device_add *)0)->physfn)",
    "vnuma_topology_info_handle": "__typeof__(((struct xen_vnuma_topology_info *)0)->vdistance)",
}

# Sizes that differ: our ring header ends where C has the first slot.
C_SIZES = {"sring": "offsetof(struct blkif_sring, ring)"}

# Members that lost their leading underscores, or gained one behind because the name is a Python keyword.
C_MEMBERS = {("sring", "pad"): "__pad", ("grant_entry_v2", "spacer"): "__spacer"}

# What the headers define and we leave out, by reason.
LEFT_OUT = re.compile(
    "|".join(
        [
            # how the headers themselves work
            r"XEN_HAVE_.*|XEN_FLEX_ARRAY_DIM|COMPAT_FLEX_ARRAY_DIM|XEN_INTERFACE_VERSION|PRI.?_xen.*|u?int64_aligned_t|DECL_REG.*",
            r"machine_to_phys_mapping|XEN_CPUID|xen_wc_sec_hi|xen_vga_console_info(_t)?|console_mfn|console_evtchn",
            # names for old interface versions
            r"HYPERVISOR_dom0_op|MAX_VMASST_TYPE|NR_EVENT_CHANNELS|PHYSDEVOP_[A-Z]+_[A-Z_]+|XEN_NMIREASON_parity_error|grant_entry_v1(_t)?",
            r"(XENMEM|xen)_add_to_physmap_range|HVMOP_set_pci_intx_level|HVMOP_set_isa_irq_level|HVMOP_set_pci_link_route",
            r"(hvm_)?(set_pci_intx_level|set_isa_irq_level|set_pci_link_route|altp2m_set_mem_access)",
            # Xen's own
            r"EVTCHNOP_reset_cont",
            # Domain 0's VGA console
            r"dom0_vga_console_info|XEN_VGATYPE_.*",
            # HVM only: memory sharing, paging, access control, alternate p2m, Viridian
            r"XENMEM_(paging|access|sharing)_.*|XENMEM_SHARING_.*|XENMEM_FORK_.*|mem_(paging|access|sharing)_op.*",
            r"HVMMEM_mmio_write_dm|HVMOP_altp2m_.*|HVMOP_ALTP2M_.*|hvm_altp2m_.*|HVMPV_.*",
            # other architectures
            r"HVM_PARAM_CALLBACK_TYPE_PPI.*",
        ]
    )
)

PROLOGUE = """
/* Error numbers first, once, as Xen itself sees them: it has two more than guests. */
#define __XEN__
#include <xen/errno.h>
#undef __XEN__
#define __XEN_TOOLS__
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
%(includes)s
extern const unsigned char emulate_prefix[], emulate_prefix_end[];
__asm__(".globl emulate_prefix, emulate_prefix_end; emulate_prefix: " XEN_EMULATE_PREFIX " emulate_prefix_end:");

/* Every value as 64 bits, sign extended as C would. */
#define VALUE(name, expression) printf("\\"%%s\\": %%llu,\\n", name, (unsigned long long)(expression))
#define STRING(name, expression) printf("\\"%%s\\": \\"%%s\\",\\n", name, expression)

int main(void)
{
    puts("{");
"""
EPILOGUE = """
    puts("\\"end\\": 0 }");
    return 0;
}
"""


def abi_modules() -> list[ModuleType]:
    """All but ``compat``, which is made of the others (test_compat.py)."""
    found = pkgutil.walk_packages(pyxen.abi.__path__, "pyxen.abi.")
    return [importlib.import_module(entry.name) for entry in found if not entry.ispkg and entry.name != "pyxen.abi.compat"]


def headers_of(module: ModuleType) -> list[str]:
    name = module.__name__.removeprefix("pyxen.abi.")
    return HEADERS.get(name, [name.replace(".", "/") + ".h"])


def is_layout(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, (ctypes.Structure, ctypes.Union))


def is_simple_type(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, ctypes._SimpleCData)


def layouts() -> dict[str, Any]:
    """All structures and unions by name."""
    return {
        name: thing
        for module in abi_modules()
        for name, thing in vars(module).items()
        if is_layout(thing) and thing.__module__ == module.__name__
    }


def named(kind: type) -> dict[str, Any]:
    """All public module-level values of exactly the type ``kind``."""
    return {
        name: thing for module in abi_modules() for name, thing in vars(module).items() if type(thing) is kind and not name.startswith("_")
    }


def typedefs() -> dict[str, Any]:
    """Our aliases of simple types, as ``domid_t``."""
    return {
        name: thing
        for module in abi_modules()
        for name, thing in vars(module).items()
        if is_simple_type(thing) and not name.startswith(("c_", "_"))
    }


def element(kind: Any) -> Any:
    """What an array is made of."""
    while issubclass(kind, ctypes.Array):
        kind = kind._type_
    return kind


# --- The headers ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Headers:
    """The public headers: the folder for ``#include <xen/...>``, and what each one defines."""

    folder: Path

    def text(self, header: str) -> str:
        source = (self.folder / "xen" / header).read_text()
        return re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)

    def defined(self, header: str) -> Iterator[str]:
        """Names of constants and of structures and unions, without their leading underscores and ``xen_``."""
        text = self.text(header)
        for name in re.findall(r"^[ \t]*#[ \t]*define[ \t]+([A-Za-z]\w*|__[A-Za-z]\w*)[ \t]+\S", text, flags=re.MULTILINE):
            yield name.removeprefix("__").removesuffix("__")
        for name in re.findall(r"\b(?:struct|union)\s+(\w+)\s*\{", text):
            yield name.removeprefix("xen_")
        for body in re.findall(r"\benum\s*\w*\s*\{([^}]*)\}", text):
            yield from re.findall(r"^\s*(\w+)\s*(?:=[^,]*)?,?\s*$", re.sub(r"^\s*#.*$", "", body, flags=re.MULTILINE), flags=re.MULTILINE)
        for name in re.findall(r"^XEN_ERRNO\((\w+)", text, flags=re.MULTILINE):
            yield f"XEN_{name}"

    @functools.cached_property
    def layouts(self) -> dict[str, str]:
        """C's spelling of every structure and union that has a name there, by our name."""
        texts = (self.text(header) for module in abi_modules() for header in headers_of(module))
        found = [match for text in texts for match in re.findall(r"\b(struct|union)\s+(\w+)\s*\{", text)]
        return {name.removeprefix("xen_"): f"{kind} {name}" for kind, name in found}


@pytest.fixture(scope="module")
def headers() -> Headers:
    """Those in ``PYXEN_XEN_HEADERS`` (the folder above ``xen/``), else the cache's libxen-dev, fetched if need be."""
    override = os.environ.get("PYXEN_XEN_HEADERS")
    return Headers(Path(override) if override else packages.fetch().xen_headers)


# --- The comparison ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """One statement of the C program, and what we expect it to print."""

    key: str
    statement: str
    expected: int | str


def value_probe(key: str, expression: str, expected: int) -> Probe:
    return Probe(key, f'VALUE("{key}", {expression});', expected % 2**64)


def c_types(headers: Headers) -> dict[str, str]:
    """C's spelling of every structure and union we have; unnamed ones by the member that holds them."""
    spelled = {}
    for name in layouts():
        if name not in OURS_ONLY:
            spelling = C_EXPRESSIONS.get(name) or headers.layouts.get(name)
            if spelling:
                spelled[name] = spelling
    pending = list(spelled)
    while pending:
        parent = pending.pop()
        for member, kind, *_ in layouts()[parent]._fields_:
            inner = element(kind)
            if is_layout(inner) and inner.__name__ not in spelled:
                spelled[inner.__name__] = f"__typeof__((({spelled[parent]} *)0)->{c_member(parent, member)})"
                pending.append(inner.__name__)
    return spelled


def c_member(layout: str, member: str) -> str:
    return C_MEMBERS.get((layout, member), member.removesuffix("_"))


def layout_probes(headers: Headers) -> Iterator[Probe]:
    for name, spelling in c_types(headers).items():
        layout = layouts()[name]
        yield value_probe(f"sizeof {name}", C_SIZES.get(name, f"sizeof({spelling})"), ctypes.sizeof(layout))
        for member, kind, *_ in layout._fields_:
            yield value_probe(
                f"offsetof {name}.{member}", f"offsetof({spelling}, {c_member(name, member)})", getattr(layout, member).offset
            )
            size = f"sizeof((({spelling} *)0)->{c_member(name, member)})"
            yield value_probe(f"sizeof {name}.{member}", size, ctypes.sizeof(kind))


def constant_probes() -> Iterator[Probe]:
    for name, value in named(int).items():
        if name not in OURS_ONLY:
            expression = C_EXPRESSIONS.get(name) or (f"__{name}" if name.startswith("HYPERVISOR_") else name)
            yield value_probe(name, expression, value)
    for name, text in named(str).items():
        if name not in OURS_ONLY:
            yield Probe(name, f'STRING("{name}", {name});', text)
    for name, simple in typedefs().items():
        if name not in OURS_ONLY:
            yield value_probe(f"sizeof {name}", f"sizeof({name})", ctypes.sizeof(simple))


def table_probes() -> Iterator[Probe]:
    """Values that are not plain constants in C."""
    yield value_probe("emulate prefix", "emulate_prefix_end - emulate_prefix", 5)
    for index, byte in enumerate(arch_x86_64.XEN_EMULATE_PREFIX):
        yield value_probe(f"emulate prefix {index}", f"emulate_prefix[{index}]", byte)
    messages = "((const char *[])GNTTABOP_error_msgs)"
    yield value_probe(
        "grant messages", "sizeof((const char *[])GNTTABOP_error_msgs) / sizeof(char *)", len(grant_table.GNTTABOP_error_msgs)
    )
    for index, text in enumerate(grant_table.GNTTABOP_error_msgs):
        yield Probe(f"grant message {index}", f'STRING("grant message {index}", {messages}[{index}]);', text)
    yield value_probe("store errors", "sizeof(xsd_errors) / sizeof(xsd_errors[0])", len(xs_wire.xsd_errors))
    for index, text in enumerate(xs_wire.xsd_errors):
        yield Probe(f"store error {index}", f'STRING("store error {index}", xsd_errors[{index}].errstring);', text)


def function_probes() -> Iterator[Probe]:
    """Macros with arguments, at a few points each."""
    for argument in (0, 1, 7, 32, 0x20107, 0xFF00):
        for function in (memory.XENMEMF_get_address_bits, memory.XENMEMF_get_node, memory.XENMEMF_node, memory.XENMEMF_exact_node):
            name = function.__name__
            yield value_probe(f"{name}({argument})", f"(uint32_t){name}({argument}u)", function(argument) % 2**32)
    for argument in (0, 5, 0x123456):
        for plain in (memory.XENMEMF_address_bits, arch_x86_64.XEN_CPUID_LEAF, arch_x86_64.xen_pfn_to_cr3, arch_x86_64.xen_cr3_to_pfn):
            call = f"{plain.__name__}({argument})"
            yield value_probe(call, call, plain(argument))
    for order in (1, 4, 9):
        yield value_probe(f"flex ring {order}", f"XEN_FLEX_RING_SIZE({order})", ring.XEN_FLEX_RING_SIZE(order))
    slots = {"blkif": blkif.blkif_sring_entry, "netif_tx": netif.netif_tx_sring_entry, "netif_rx": netif.netif_rx_sring_entry}
    for name, slot in slots.items():
        for size in (4096, 8192, 65536):
            yield value_probe(f"ring {name} {size}", f"__CONST_RING_SIZE({name}, {size})", ring.CONST_RING_SIZE(ctypes.sizeof(slot), size))


def answers(headers: Headers, probes: list[Probe], folder: Path) -> dict[str, int | str]:
    """What the C program prints for the probes."""
    wanted = sorted({header for module in abi_modules() for header in headers_of(module)} - {"errno.h"})
    includes = "\n".join(f"#include <xen/{header}>" for header in wanted)
    body = "\n".join(f"    {probe.statement}" for probe in probes)
    source = folder / "layout.c"
    source.write_text(PROLOGUE % {"includes": includes} + body + EPILOGUE)
    program = folder / "layout"
    # gnu89: there the headers give flexible arrays the length 0, so that they have a size.
    compiled = subprocess.run(
        ["gcc", "-std=gnu89", "-m64", "-w", "-isystem", str(headers.folder), "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr[:4000]
    printed = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    result: dict[str, int | str] = json.loads(printed)
    return result


def all_probes(headers: Headers) -> list[Probe]:
    return [*layout_probes(headers), *constant_probes(), *table_probes(), *function_probes()]


def differences(probes: list[Probe], answered: dict[str, int | str]) -> list[str]:
    return [f"{p.key}: C says {answered[p.key]!r}, we say {p.expected!r}" for p in probes if answered[p.key] != p.expected]


def test_everything_equals_the_headers(headers: Headers, tmp_path: Path) -> None:
    probes = all_probes(headers)
    assert len({probe.key for probe in probes}) == len(probes), "two modules use the same name"
    assert differences(probes, answers(headers, probes, tmp_path)) == []


def test_every_layout_is_compared(headers: Headers) -> None:
    assert set(layouts()) - set(c_types(headers)) - OURS_ONLY == set()


def test_nothing_of_the_headers_is_forgotten(headers: Headers) -> None:
    have = {name for module in abi_modules() for name in vars(module)}
    missing = {
        f"{header}: {name}"
        for module in abi_modules()
        for header in headers_of(module)
        for name in headers.defined(header)
        if name not in have and header not in HEADS_ONLY and not LEFT_OUT.fullmatch(name)
    }
    assert missing == set()


def test_wrong_offset_size_and_value_are_found(headers: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = type(
        "trap_info",
        (ctypes.Structure,),
        {
            "__module__": "pyxen.abi.arch_x86_64",
            "_fields_": [("vector", ctypes.c_uint8), ("cs", ctypes.c_uint16), ("flags", ctypes.c_uint16), ("address", ctypes.c_uint32)],
        },
    )
    monkeypatch.setattr(arch_x86_64, "trap_info", wrong)
    monkeypatch.setattr(xen, "HYPERVISOR_iret", 24)
    probes = all_probes(headers)
    found = {line.split(":")[0] for line in differences(probes, answers(headers, probes, tmp_path))}
    assert {
        "sizeof trap_info",
        "offsetof trap_info.flags",
        "sizeof trap_info.flags",
        "sizeof trap_info.address",
        "HYPERVISOR_iret",
    } <= found
    assert "offsetof trap_info.vector" not in found


def test_packed_memory_map_entry() -> None:
    assert ctypes.sizeof(memory.e820entry) == 20


def test_ring_without_room_for_a_slot() -> None:
    with pytest.raises(ValueError, match="no room"):
        ring.CONST_RING_SIZE(112, 128)
