/* Every sub-operation of xen_version, as Xen 4.17 answers an unprivileged PV domain. */
#include "guest.h"

static bool terminated(const char *text, size_t bytes)
{
    for (; bytes; bytes--, text++)
        if (!*text)
            return true;
    return false;
}

static void check_features(void)
{
    struct xen_feature_info info = {.submap_idx = 0};
    u32 map;

    check_equal(hypercall_xen_version(XENVER_get_features, &info), 0, "get_features");
    map = info.submap;
    check(map & (1U << XENFEAT_mmu_pt_update_preserve_ad), "feature mmu_pt_update_preserve_ad");
    check(map & (1U << XENFEAT_highmem_assist), "feature highmem_assist");
    check(map & (1U << XENFEAT_gnttab_map_avail_bits), "feature gnttab_map_avail_bits");
    check(map & (1U << XENFEAT_memory_op_vnode_supported), "feature memory_op_vnode_supported");
    check(!(map & (1U << XENFEAT_writable_page_tables)), "no feature writable_page_tables");
    check(!(map & (1U << XENFEAT_writable_descriptor_tables)), "no feature writable_descriptor_tables");
    check(!(map & (1U << XENFEAT_auto_translated_physmap)), "no feature auto_translated_physmap");
    check(!(map & (1U << XENFEAT_supervisor_mode_kernel)), "no feature supervisor_mode_kernel");
    check(!(map & (1U << XENFEAT_dom0)), "no feature dom0");
    check(!(map & (1U << XENFEAT_hvm_callback_vector)), "no feature hvm_callback_vector");
    info.submap_idx = XENFEAT_NR_SUBMAPS;
    check_equal(hypercall_xen_version(XENVER_get_features, &info), -XEN_EINVAL, "a submap that does not exist");
}

PROGRAM(xen_version)
{
    xen_extraversion_t extra;
    struct xen_compile_info compile;
    static xen_capabilities_info_t capabilities;
    static xen_commandline_t command_line;
    xen_changeset_info_t changeset;
    struct xen_platform_parameters parameters;
    u8 handle[16] = {0}, any = 0;
    struct {
        u32 length;
        u8 bytes[64];
    } build_id = {.length = 64};

    check_equal(hypercall_xen_version(XENVER_version, NULL), 4 << 16 | 17, "version is 4.17");
    check_equal(hypercall_xen_version(XENVER_extraversion, extra), 0, "extraversion");
    check(extra[0] == '.' && terminated(extra, sizeof(extra)), "extraversion begins with a point and ends");
    check_equal(hypercall_xen_version(XENVER_compile_info, &compile), 0, "compile_info");
    check(terminated(compile.compiler, sizeof(compile.compiler)) && terminated(compile.compile_by, sizeof(compile.compile_by)) &&
              terminated(compile.compile_domain, sizeof(compile.compile_domain)) &&
              terminated(compile.compile_date, sizeof(compile.compile_date)),
          "compile_info's strings end");
    check_equal(hypercall_xen_version(XENVER_capabilities, capabilities), 0, "capabilities");
    check(terminated(capabilities, sizeof(capabilities)) && strstr(capabilities, "xen-3.0-x86_64"), "capabilities name xen-3.0-x86_64");
    check_equal(hypercall_xen_version(XENVER_changeset, changeset), 0, "changeset");
    check(terminated(changeset, sizeof(changeset)), "changeset ends");
    check_equal(hypercall_xen_version(XENVER_platform_parameters, &parameters), 0, "platform_parameters");
    check_equal(parameters.virt_start, HYPERVISOR_VIRT_START, "virt_start");
    check_features();
    check_equal(hypercall_xen_version(XENVER_pagesize, NULL), PAGE_SIZE, "pagesize");
    check_equal(hypercall_xen_version(XENVER_guest_handle, handle), 0, "guest_handle");
    for (int i = 0; i < 16; i++)
        any |= handle[i];
    check(any, "the handle is not zero");
    check_equal(hypercall_xen_version(XENVER_commandline, command_line), 0, "commandline is answered");
    check(!strcmp(command_line, "<denied>"), "but not shown to an unprivileged domain: %s", command_line);
    check_equal(hypercall_xen_version(XENVER_build_id, &build_id), -XEN_EPERM, "build_id is refused");
    check_equal(hypercall_xen_version(99, NULL), -XEN_ENOSYS, "an unknown sub-operation");
}
