"""pyxen's changes to the engine's sources: its own files and fields, and all the edits by subject."""

from __future__ import annotations

import edits_exits
import edits_instructions
import edits_memory
import edits_sse
from edit import AFTER, BEFORE, I386, Edit

_FILES_AND_FIELDS: tuple[Edit, ...] = (
    Edit(
        "src/CMakeLists.txt",
        "Compile pyxen's C files into the x86 library, where they see the CPU state by name.",
        "    qemu/target/i386/unicorn.c\n",
        AFTER,
        "    qemu/target/i386/pyxen_cpu.c\n    qemu/target/i386/pyxen_atomic.c\n    qemu/target/i386/pyxen_block.c\n"
        "    qemu/target/i386/pyxen_code.c\n    qemu/target/i386/pyxen_control.c\n    qemu/target/i386/pyxen_exits.c\n"
        "    qemu/target/i386/pyxen_debug.c\n    qemu/target/i386/pyxen_decode.c\n"
        "    qemu/target/i386/pyxen_string.c\n    qemu/target/i386/pyxen_fpu.c\n"
        "    qemu/target/i386/pyxen_frames.c\n    qemu/target/i386/pyxen_gate.c\n"
        "    qemu/target/i386/pyxen_injection.c\n    qemu/target/i386/pyxen_lock.c\n"
        "    qemu/target/i386/pyxen_mmu.c\n    qemu/target/i386/pyxen_table_writes.c\n"
        "    qemu/target/i386/pyxen_events.c\n    qemu/target/i386/pyxen_timer.c\n"
        "    qemu/target/i386/pyxen_hvm.c\n    qemu/target/i386/pyxen_apic.c\n"
        "    qemu/target/i386/pyxen_physical.c\n    qemu/target/i386/pyxen_access.c\n",
    ),
    Edit(
        "src/include/uc_priv.h",
        "Every instance belongs to a pyxen CPU.",
        "    bool skip_sync_pc_on_exit;\n",
        AFTER,
        "    struct pyxen_cpu *pyxen;\n"
        "    MemoryRegion *pyxen_ram; /* the only region, at physical address 0 */\n"
        "    uint64_t pyxen_ram_bytes;\n"
        "    void *pyxen_stop_label; /* of the block being translated */\n"
        "    int pyxen_segment;      /* that the address being translated goes through, if it is to be checked; or -1 */\n"
        "    int pyxen_alignment;    /* MO_ALIGN in a block that checks it */\n"
        "    int pyxen_sse_alignment; /* of the 16 octets of the instruction being translated: MO_ALIGN_16 or 0 */\n",
    ),
    Edit(
        I386 + "cpu.h",
        "The length of an instruction that exits, stored by the translator, which alone knows it.",
        "    /* Fields after this point are preserved across CPU reset. */\n",
        AFTER,
        "    uint32_t pyxen_length;\n",
    ),
    Edit(I386 + "cpu.h", "The hooks that the edits below call.", '#include "exec/cpu-defs.h"\n', AFTER, '#include "pyxen_hooks.h"\n'),
    Edit(
        I386 + "helper.h",
        "pyxen's own helpers.",
        "DEF_HELPER_3(outb, void, env, i32, i32)\n",
        BEFORE,
        "DEF_HELPER_4(pyxen_io, void, env, i32, i32, i32)\n"
        "DEF_HELPER_2(pyxen_rep_movs, void, env, i32)\n"
        "DEF_HELPER_2(pyxen_rep_stos, void, env, i32)\n"
        "DEF_HELPER_3(pyxen_check_segment, void, env, tl, i32)\n"
        "DEF_HELPER_3(pyxen_check_alignment, void, env, tl, i32)\n"
        "DEF_HELPER_1(pyxen_mxcsr_sync, void, env)\n"
        "DEF_HELPER_1(pyxen_sse_begin, void, env)\n"
        "DEF_HELPER_1(pyxen_sse_end, void, env)\n",
    ),
)

EDITS: tuple[Edit, ...] = (*_FILES_AND_FIELDS, *edits_exits.EDITS, *edits_memory.EDITS, *edits_instructions.EDITS, *edits_sse.EDITS)
