/* Registers, start_info and memory as the domain finds them at its first instruction (xen.h, "startofday"). */
#include "guest.h"

static void check_registers(void)
{
    check_equal(boot_registers.cs, FLAT_KERNEL_CS64, "CS is FLAT_KERNEL_CS64");
    check_equal(boot_registers.ss, FLAT_KERNEL_SS64, "SS is FLAT_KERNEL_SS64");
    check_equal(boot_registers.ds & ~3, 0, "DS is null");
    check_equal(boot_registers.es & ~3, 0, "ES is null");
    check_equal(boot_registers.fs & ~3, 0, "FS is null");
    check_equal(boot_registers.gs & ~3, 0, "GS is null");
    check_equal(boot_registers.rflags & ~X86_EFLAGS_ARITHMETIC, X86_EFLAGS_MBS | X86_EFLAGS_IF, "RFLAGS has IF and no IOPL");
    check_equal(boot_registers.rax | boot_registers.rbx | boot_registers.rcx | boot_registers.rdx | boot_registers.rdi | boot_registers.rbp,
                0, "other registers are zero");
    check_equal(boot_registers.rsi & (PAGE_SIZE - 1), 0, "RSI points to a page");
    check_equal(boot_registers.rsp & (PAGE_SIZE - 1), 0, "RSP is the top of the bootstrap stack page");
}

static void check_start_info(void)
{
    check(!strncmp(start_info->magic, "xen-3.0-x86_64", 14), "magic is xen-3.0-x86_64, got %s", start_info->magic);
    check(start_info->nr_pages >= 1024, "nr_pages is %lu", start_info->nr_pages);
    check_equal(start_info->flags & (SIF_PRIVILEGED | SIF_INITDOMAIN | SIF_MULTIBOOT_MOD), 0, "not privileged, no multiboot module");
    check(start_info->flags & SIF_VIRT_P2M_4TOOLS, "SIF_VIRT_P2M_4TOOLS is set");
    check_equal(start_info->mod_len, 0, "no module");
    check(start_info->store_mfn && start_info->store_evtchn, "store page and port are there");
    check(start_info->console.domU.mfn && start_info->console.domU.evtchn, "console page and port are there");
    check_equal(start_info->shared_info & (PAGE_SIZE - 1), 0, "shared_info is a machine address of a page");
    check(start_info->nr_pt_frames >= 4, "at least four page-table frames");
    check((unsigned long)start_info > (unsigned long)image_end, "start_info lies after the image");
    check_equal(start_info->mfn_list & (PAGE_SIZE - 1), 0, "mfn_list is page-aligned");
    check(start_info->pt_base > start_info->mfn_list, "page tables lie after the p2m list");
    check(boot_registers.rsp > start_info->pt_base + start_info->nr_pt_frames * PAGE_SIZE, "the stack lies after the page tables");
}

static void check_p2m(void)
{
    unsigned long wrong = 0, first_wrong = 0;

    for (unsigned long pfn = 0; pfn < start_info->nr_pages; pfn++)
        if (mfn_to_pfn(pfn_to_mfn(pfn)) != pfn && !wrong++)
            first_wrong = pfn;
    check(!wrong, "p2m and M2P agree (%lu differ, first pfn %lu)", wrong, first_wrong);
}

static void check_page_tables(void)
{
    unsigned long writable = 0, wrong_pfn = 0;

    for (unsigned long i = 0; i < start_info->nr_pt_frames; i++) {
        unsigned long va = start_info->pt_base + i * PAGE_SIZE;
        u64 *pte = pte_of(va, 1);

        writable += !!(*pte & PTE_RW);
        wrong_pfn += mfn_to_pfn((*pte & PTE_FRAME) >> 12) != (va - VIRT_BASE) >> 12;
    }
    check_equal(writable, 0, "the initial page tables are mapped read-only");
    check_equal(wrong_pfn, 0, "the initial mapping is linear");
    check(*pte_of((unsigned long)start_info, 1) & PTE_RW, "start_info is mapped writable");

    /* "At least 512kB padding after the final bootstrap element." */
    unsigned long missing = 0;

    for (unsigned long va = boot_registers.rsp; va < boot_registers.rsp + 512 * 1024; va += PAGE_SIZE)
        missing += !pte_of(va, 1) || !(*pte_of(va, 1) & PTE_P);
    check_equal(missing, 0, "512 kB of padding after the last bootstrap element");
}

static void check_vcpu_info(void)
{
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 1, "upcalls are masked");
    check_equal(*(u16 *)start_info->cmd_line & 0xff, 0, "no command line");
    check(shared_info->wc_sec > 1000000000U, "the wall clock is set");
}

PROGRAM(start_of_day)
{
    check_registers();
    check_start_info();
    check_p2m();
    check_page_tables();
    check_vcpu_info();
}
