/* Hypercalls with advisories of their own that an unprivileged PV domain here simply does not have, or may not use.
 * XSA-15: tmem_op. XSA-84, XSA-85: xsm_op. XSA-132: domctl (gettscinfo leaked). XSA-149: domctl max_vcpus. XSA-151, XSA-313: xenoprof.
 * XSA-152: xenoprof and xenpmu_op logged without limit. XSA-27, XSA-28, XSA-89, XSA-92: hvm_op. XSA-238: dm_op. */
#include "guest.h"

static long any(unsigned number, unsigned long command, void *argument)
{
    return hypercall(number, command, (unsigned long)argument, (unsigned long)argument, 0, 0);
}

PROGRAM(xsa_015_removed_hypercalls)
{
    static u64 zeros[512], after[512];
    static const struct {
        unsigned number;
        const char *what;
    } calls[] = {
        {__HYPERVISOR_tmem_op, "XSA-15: tmem_op"},   {__HYPERVISOR_xsm_op, "XSA-84: xsm_op"},
        {__HYPERVISOR_xsm_op, "XSA-85: xsm_op"},     {__HYPERVISOR_domctl, "XSA-132: domctl"},
        {__HYPERVISOR_domctl, "XSA-149: domctl"},    {__HYPERVISOR_xenoprof_op, "XSA-151: xenoprof_op"},
        {__HYPERVISOR_xenpmu_op, "XSA-152: xenpmu_op"}, {__HYPERVISOR_xenoprof_op, "XSA-313: xenoprof_op"},
        {__HYPERVISOR_hvm_op, "XSA-27: hvm_op"},     {__HYPERVISOR_hvm_op, "XSA-28: hvm_op"},
        {__HYPERVISOR_hvm_op, "XSA-89: hvm_op"},     {__HYPERVISOR_hvm_op, "XSA-92: hvm_op"},
        {__HYPERVISOR_dm_op, "XSA-238: dm_op"},      {__HYPERVISOR_sysctl, "XSA-152: sysctl"},
        {__HYPERVISOR_kexec_op, "kexec_op"},         {__HYPERVISOR_platform_op, "platform_op"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
        for (unsigned command = 0; command < 32; command++) {
            memcpy(after, zeros, sizeof(after));
            check(any(calls[i].number, command, after) < 0, "%s, command %u", calls[i].what, command);
            check(memcmp(after, zeros, sizeof(after)) == 0, "%s, command %u leaks nothing", calls[i].what, command);
        }
    for (unsigned i = 0; i < 2000; i++)
        any(__HYPERVISOR_xenpmu_op, i, (void *)0x1234UL);
}
