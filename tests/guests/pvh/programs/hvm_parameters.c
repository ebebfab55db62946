/* @modes 64 pae 32
 * HVM_PARAM_*: which ones a guest may read and write, and HVMOP_* (hvm/params.h, hvm/hvm_op.h). */
#include "guest.h"

static long set_of(domid_t domain)
{
    struct xen_hvm_param argument = {.domid = domain, .index = HVM_PARAM_CALLBACK_IRQ};

    return HYPERCALL(hvm_op, HVMOP_set_param, &argument);
}

static int memory_type(unsigned long gfn)
{
    struct xen_hvm_get_mem_type argument = {.domid = DOMID_SELF, .pfn = gfn};
    long result = HYPERCALL(hvm_op, HVMOP_get_mem_type, &argument);

    return result ? (int)result : argument.mem_type;
}

PROGRAM(hvm_parameters)
{
    static const u8 both[] = {HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_VM_GENERATION_ID_ADDR, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_CONSOLE_EVTCHN};
    static const u8 only_read[] = {HVM_PARAM_STORE_PFN, HVM_PARAM_CONSOLE_PFN, HVM_PARAM_ALTP2M};
    static const u8 neither[] = {HVM_PARAM_IDENT_PT, HVM_PARAM_TIMER_MODE, HVM_PARAM_HPET_ENABLED, HVM_PARAM_VIRIDIAN, HVM_PARAM_ACPI_S_STATE,
                                 HVM_PARAM_VPT_ALIGN, HVM_PARAM_PAGING_RING_PFN, HVM_PARAM_MONITOR_RING_PFN,
                                 HVM_PARAM_SHARING_RING_PFN, HVM_PARAM_TRIPLE_FAULT_REASON, HVM_PARAM_IOREQ_SERVER_PFN,
                                 HVM_PARAM_NR_IOREQ_SERVER_PAGES, HVM_PARAM_MCA_CAP};
    struct xen_hvm_get_time now = {0};
    struct xen_hvm_xentrace trace = {.event = 1, .extra_bytes = 4};
    u64 value, before;

    for (unsigned i = 0; i < ARRAY_SIZE(both); i++) {
        check_equal(hvm_get_parameter(both[i], &value), 0, "a parameter that may be read");
        check_equal(hvm_set_parameter(both[i], value), 0, "and written");
    }
    for (unsigned i = 0; i < ARRAY_SIZE(only_read); i++) {
        check_equal(hvm_get_parameter(only_read[i], &value), 0, "a parameter that may be read");
        check_equal(hvm_set_parameter(only_read[i], value), -XEN_EPERM, "and not written");
    }
    for (unsigned i = 0; i < ARRAY_SIZE(neither); i++) {
        check_equal(hvm_get_parameter(neither[i], &value), -XEN_EPERM, "a parameter that may not be read");
        check_equal(hvm_set_parameter(neither[i], 1), -XEN_EPERM, "nor written");
    }
    check_equal(hvm_get_parameter(HVM_NR_PARAMS, &value), -XEN_EINVAL, "a parameter that is not there");
    check_equal(hvm_set_parameter(0xffffffff, 0), -XEN_EINVAL, "another one");
    hvm_get_parameter(HVM_PARAM_STORE_PFN, &value);
    check_equal(value, 0xfeffc, "the store's page");
    check_equal(*(volatile u32 *)(unsigned long)(value << 12), 0, "it is memory");
    check_equal(hvm_set_parameter(HVM_PARAM_X87_FIP_WIDTH, 3), -XEN_EINVAL, "a width of FIP that there is not");
    check_equal(hvm_set_parameter(HVM_PARAM_X87_FIP_WIDTH, 4), 0, "one that there is");
    hvm_get_parameter(HVM_PARAM_X87_FIP_WIDTH, &value);
    check_equal(value, 4, "it is kept");
    check_equal(hvm_set_parameter(HVM_PARAM_ACPI_IOPORTS_LOCATION, 1), -XEN_ENODEV, "the ACPI timer's ports: a PVH domain has none");
    check_equal(hvm_set_parameter(HVM_PARAM_VM86_TSS_SIZED, (u64)0x2000 << 32 | 0x10000), 0, "the TSS of real mode");
    hvm_get_parameter(HVM_PARAM_VM86_TSS, &value);
    check_equal(value, 0x10000, "its address alone");
    hvm_get_parameter(HVM_PARAM_VM86_TSS_SIZED, &value);
    check_equal(value, (u64)0x2000 << 32 | 0x10000, "with its size");
    check_equal(set_of(0), -XEN_EPERM, "those of Domain 0");
    check_equal(set_of(0x7000), -XEN_ESRCH, "those of a domain that is not there");
    check_equal(HYPERCALL(hvm_op, HVMOP_get_param, 0x7ffff000UL << 1 | 1), -XEN_EFAULT, "an argument in no memory");

    before = clock_now();
    check_equal(HYPERCALL(hvm_op, HVMOP_get_time, &now), 0, "HVMOP_get_time");
    check(now.now >= before && now.now - before < SECONDS, "it is the time of the clock");
    check_equal(HYPERCALL(hvm_op, HVMOP_flush_tlbs, 0), 0, "HVMOP_flush_tlbs");
    check_equal(HYPERCALL(hvm_op, HVMOP_flush_tlbs, &now), -XEN_EINVAL, "with an argument");
    check_equal(HYPERCALL(hvm_op, HVMOP_guest_request_vm_event, 0), 0, "HVMOP_guest_request_vm_event without a monitor");
    check_equal(HYPERCALL(hvm_op, HVMOP_guest_request_vm_event, &now), -XEN_EINVAL, "with an argument");
    check_equal(HYPERCALL(hvm_op, HVMOP_xentrace, &trace), 0, "HVMOP_xentrace");
    trace.extra_bytes = 29;
    check_equal(HYPERCALL(hvm_op, HVMOP_xentrace, &trace), -XEN_EINVAL, "with too much of it");
    trace.extra_bytes = 0;
    trace.event = 0x1000;
    check_equal(HYPERCALL(hvm_op, HVMOP_xentrace, &trace), -XEN_EINVAL, "with an event of Xen's own");
    check_equal(HYPERCALL(hvm_op, HVMOP_altp2m, &trace), -XEN_EOPNOTSUPP, "HVMOP_altp2m, for which the hardware is missing");
    check_equal(HYPERCALL(hvm_op, 12, 0), -XEN_ENOSYS, "HVMOP_set_mem_access, which is no more");
    check_equal(HYPERCALL(hvm_op, 99, 0), -XEN_ENOSYS, "an operation that never was");
    check_equal(memory_type(0x200), HVMMEM_ram_rw, "type of RAM");
    check_equal(memory_type(FREE_HOLE >> 12), HVMMEM_mmio_dm, "type of a hole");
    check_equal(memory_type(SHARED_INFO_ADDRESS >> 12), HVMMEM_ram_rw, "type of shared_info");
}
