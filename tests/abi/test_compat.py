"""Compare the layouts for 32-bit callers with Xen's public headers as gcc has them for i386.

Nothing is run, and no 32-bit C library is needed: the object file's data are the answers.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyxen.abi import arch_x86_64, compat, memory, xen
from pyxen.abi.compat import narrow_type, translation
from tests.abi.test_layout import Headers, abi_modules, c_member, c_types, headers, headers_of, is_layout, layouts

__all__ = ["headers"]

#: What hypercalls of HVM guests carry is in these modules, and what rings are that differ.
MODULES = {
    "arch_x86_64",
    "callback",
    "event_channel",
    "grant_table",
    "hvm.hvm_op",
    "hvm.hvm_vcpu",
    "io.blkif",
    "memory",
    "nmi",
    "physdev",
    "sched",
    "vcpu",
    "version",
    "xen",
}
#: The processor's state, entry points and start of PV guests, which are others on i386; what control calls have, which is the same there;
#: and what is spelled out in ``compat``.
OTHERS_ON_I386 = {
    "arch_vcpu_info",
    "vcpu_info",
    "arch_shared_info",
    "shared_info",
    "trap_info",
    "iret_context",
    "cpu_user_regs",
    "vcpu_guest_context",
    "vcpu_guest_context_fpu_ctxt",
    "start_info",
    "callback_register",
    "xenctl_bitmap",
    "blkif_request_indirect",  # as ours up to its end, where i386 has a pad
}
#: Which the headers have only with -D__XEN__, or for one width.
SPELLED_OUT = {
    "compat_arch_vcpu_info": "struct arch_vcpu_info",
    "compat_vcpu_info": "struct vcpu_info",
    "compat_arch_shared_info": "struct arch_shared_info",
    "compat_shared_info": "struct shared_info",
}


def module_name(module: Any) -> str:
    return str(module.__name__).removeprefix("pyxen.abi.")


def narrow_layouts(headers: Headers) -> Iterator[tuple[str, str, Any]]:
    """(our name, C's spelling, the narrow type) of everything that is compared."""
    ours = {name for module in abi_modules() if module_name(module) in MODULES for name, thing in vars(module).items() if is_layout(thing)}
    for name, spelling in c_types(headers).items():
        if name in ours - OTHERS_ON_I386:
            yield name, spelling, narrow_type(layouts()[name])
    for name, spelling in SPELLED_OUT.items():
        yield name, spelling, getattr(compat, name)


def questions(headers: Headers) -> dict[str, tuple[str, int]]:
    """C's expression and our answer, by what they are about."""
    result: dict[str, tuple[str, int]] = {}
    for name, spelling, kind in narrow_layouts(headers):
        result[f"sizeof {name}"] = (f"sizeof({spelling})", ctypes.sizeof(kind))
        for member, *_ in kind._fields_:
            field, in_c = getattr(kind, member), c_member(name, member)
            result[f"offsetof {name}.{member}"] = (f"offsetof({spelling}, {in_c})", field.offset)
            result[f"sizeof {name}.{member}"] = (f"sizeof((({spelling} *)0)->{in_c})", field.size)
    return result


def answers(headers: Headers, expressions: list[str], folder: Path) -> list[int]:
    """What the expressions are in 32-bit code."""
    wanted = sorted({header for module in abi_modules() if module_name(module) in MODULES for header in headers_of(module)})
    wanted = [header for header in wanted if "x86_64" not in header]
    includes = "".join(f"#include <xen/{header}>\n" for header in wanted)
    source, program, data = folder / "narrow.c", folder / "narrow.o", folder / "narrow.bin"
    source.write_text(
        "#define __XEN_TOOLS__\n#include <stddef.h>\n#include <stdint.h>\n"
        + includes
        + '__attribute__((section("answers"))) const unsigned int narrow[] = {\n'
        + "".join(f"    {expression},\n" for expression in expressions)
        + "};\n"
    )
    options = ["-std=gnu89", "-m32", "-ffreestanding", "-w", "-isystem", str(headers.folder), "-c", "-o", str(program), str(source)]
    compiled = subprocess.run(["gcc", *options], capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr[:4000]
    subprocess.run(["objcopy", "-O", "binary", "--only-section=answers", str(program), str(data)], check=True)
    return [value for (value,) in struct.iter_unpack("<I", data.read_bytes())]


def test_narrow_layouts_equal_the_headers(headers: Headers, tmp_path: Path) -> None:
    asked = questions(headers)
    given = answers(headers, [expression for expression, _ in asked.values()], tmp_path)
    assert len(given) == len(asked)
    pairs = zip(asked.items(), given, strict=True)
    differences = [f"{key}: C says {value}, we say {mine}" for (key, (_, mine)), value in pairs if mine != value]
    assert differences == []
    assert len({key for key in asked if key.startswith("sizeof ") and "." not in key}) > 60


def test_a_wrong_layout_is_found(headers: Headers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = type("Wrong", (ctypes.Structure,), {"_fields_": [("evtchn_upcall_pending", ctypes.c_uint16)]})
    monkeypatch.setattr(compat, "compat_vcpu_info", wrong)
    asked = {key: value for key, value in questions(headers).items() if key in ("sizeof compat_vcpu_info", "sizeof add_to_physmap")}
    given = answers(headers, [expression for expression, _ in asked.values()], tmp_path)
    different = [key for (key, (_, mine)), value in zip(asked.items(), given, strict=True) if mine != value]
    assert different == ["sizeof compat_vcpu_info"]


def test_values_survive_the_translation() -> None:
    op = memory.add_to_physmap(1, 2, 3, 0x1234, 0xFFFF_FFFF)
    form = translation(memory.add_to_physmap)
    narrow = form.shorten(op)
    assert narrow == struct.pack("<HHIII", 1, 2, 3, 0x1234, 0xFFFF_FFFF)
    assert bytes(form.widen(narrow)) == bytes(op)


def test_longer_members_are_zero_beyond() -> None:
    wide = translation(memory.remove_from_physmap).widen(struct.pack("<HHI", 7, 0xAAAA, 0xFFFF_FFFF))
    assert (wide.domid, wide.gpfn) == (7, 0xFFFF_FFFF)


def test_nested_structures_and_arrays() -> None:
    entry = xen.multicall_entry(1, 2, (3, 4, 5, 6, 7, 8))
    form = translation(xen.multicall_entry)
    assert struct.unpack("<8I", form.shorten(entry)) == (1, 2, 3, 4, 5, 6, 7, 8)
    exchange = memory.memory_exchange()
    exchange.in_.nr_extents, exchange.out.domid, exchange.nr_exchanged = 5, 6, 7
    again = translation(memory.memory_exchange).widen(translation(memory.memory_exchange).shorten(exchange))
    assert (again.in_.nr_extents, again.out.domid, again.nr_exchanged) == (5, 6, 7)


def test_a_union_of_different_structures_is_refused() -> None:
    class Inner(ctypes.Structure):
        _fields_ = [("value", arch_x86_64.guest_long)]

    class Choice(ctypes.Union):
        _fields_ = [("inner", Inner), ("number", ctypes.c_uint32)]

    class Outer(ctypes.Structure):
        _fields_ = [("choice", Choice)]

    with pytest.raises(TypeError, match="Choice"):
        translation(Outer)
