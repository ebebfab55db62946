/* Numbers that Xen 4.17 has no hypercall for answer -ENOSYS. */
#include "guest.h"

PROGRAM(hypercall_unknown)
{
    static const unsigned long unused[] = {11, 43, 44, 45, 46, 47, 50, 55, 63, 64, 100, 1000, 0xffffffff, 0x100000011, 1UL << 63, ~0UL};
    static u8 zeros[4096];

    for (size_t i = 0; i < ARRAY_SIZE(unused); i++)
        check(hypercall(unused[i], 0, 0, 0, 0, 0) == -XEN_ENOSYS, "hypercall 0x%lx is -ENOSYS", unused[i]);
    check(hypercall(__HYPERVISOR_tmem_op, (unsigned long)zeros, 0, 0, 0, 0) == -XEN_ENOSYS, "tmem_op is gone");
}
