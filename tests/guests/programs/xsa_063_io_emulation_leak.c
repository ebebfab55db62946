/* XSA-63: emulated IN gave stale octets of the hypervisor's stack. XSA-67: so did OUTS with a bad segment. XSA-121: internal devices left the upper
 * part unset. XSA-239: I/O interception. XSA-329: I/O permissions of one task or vCPU that others get. XSA-171: the same in Linux. */
#include "guest.h"

static struct trap_record input(unsigned port, unsigned size, u32 *value)
{
    struct trap_record trap;
    u32 result = 0x5a5a5a5a;

    if (size == 1)
        trap = TRAP_OF(MAY_FAULT("inb %%dx, %%al") : "+a"(result) : "d"(port) : "memory");
    else if (size == 2)
        trap = TRAP_OF(MAY_FAULT("inw %%dx, %%ax") : "+a"(result) : "d"(port) : "memory");
    else
        trap = TRAP_OF(MAY_FAULT("inl %%dx, %%eax") : "+a"(result) : "d"(port) : "memory");
    *value = result;
    return trap;
}

static bool is_timer(unsigned port)
{
    return port == 0x42 || port == 0x43 || port == 0x61;
}

/* Besides, Xen keeps the CMOS index and PCI's configuration address, of which nothing has been written. */
static u8 answer(unsigned port, unsigned position, unsigned size)
{
    return port + position == 0x70 || (port == 0xcf8 && size == 4) ? 0 : 0xff;
}

PROGRAM(xsa_063_io_emulation_leak)
{
    static const unsigned ports[] = {0x20, 0x42, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0xcf8, 0xcfc, 0x3f8, 0xb2, 0xfffc, 0xffff};
    static const unsigned sizes[] = {1, 2, 4};
    struct physdev_set_iopl iopl = {.iopl = 1};
    u8 *buffer = page_alloc();
    u32 value;

    for (size_t i = 0; i < ARRAY_SIZE(ports); i++)
        for (size_t j = 0; j < ARRAY_SIZE(sizes); j++)
            check(input(ports[i], sizes[j], &value).kind == VECTOR_GP && value == 0x5a5a5a5a, "XSA-171: IN without permission");
    check_equal(hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0, "IOPL 1");
    for (size_t i = 0; i < ARRAY_SIZE(ports); i++)
        for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
            struct trap_record trap = input(ports[i], sizes[j], &value);
            u32 mask = sizes[j] == 4 ? 0 : ~0U << (8 * sizes[j]), read = value & ~mask;

            check(trap.kind == KIND_NONE || trap.kind == VECTOR_GP, "XSA-63: IN of %u octets from port 0x%x", sizes[j], ports[i]);
            check_equal(value & mask, 0x5a5a5a5a & mask, "XSA-121: the rest of RAX is as before");
            for (unsigned k = 0; trap.kind == KIND_NONE && k < sizes[j]; k++)
                if (!is_timer(ports[i] + k))
                    check_equal(read >> 8 * k & 0xff, answer(ports[i], k, sizes[j]), "XSA-63: what no device answers is all ones");
        }
    memset(buffer, 0x11, 64);
    for (int i = 0; i < 4; i++) {
        struct trap_record trap = TRAP_OF(MAY_FAULT("rep insb")::"D"(buffer), "d"(0x80), "c"(16) : "memory");

        check(trap.kind == KIND_NONE || trap.kind == VECTOR_GP, "XSA-63: rep insb");
        for (int j = 0; j < 64; j++)
            if (buffer[j] != 0x11 && buffer[j] != 0xff)
                check(false, "XSA-63: octet %d is 0x%x", j, buffer[j]);
        trap = TRAP_OF(MAY_FAULT("rep outsb")::"S"(NON_CANONICAL), "d"(0x80), "c"(16) : "memory");
        check(trap.kind != KIND_NONE, "XSA-67: outs from a non-canonical address");
        trap = TRAP_OF(MAY_FAULT("rep outsb")::"S"(XEN_PRIVATE), "d"(0x80), "c"(16) : "memory");
        check(trap.kind != KIND_NONE, "XSA-67: outs from Xen's memory");
        trap = TRAP_OF(MAY_FAULT("rep insb")::"D"(XEN_PRIVATE), "d"(0x80), "c"(16) : "memory");
        check(trap.kind != KIND_NONE, "XSA-63: ins into Xen's memory");
    }
    iopl.iopl = 4;
    check_equal(hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), -XEN_EINVAL, "XSA-329: IOPL 4");
    iopl.iopl = 0;
    check_equal(hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0, "IOPL 0");
    check_equal(input(0x80, 1, &value).kind, VECTOR_GP, "XSA-329: no permission any more");
}
