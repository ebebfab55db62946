/* CLEAR_PAGE and COPY_PAGE. */
#include "guest.h"

PROGRAM(mmuext_pages)
{
    u64 *a = page_alloc(), *b = page_alloc(), wrong = 0;

    for (int i = 0; i < 512; i++)
        a[i] = i * 3 + 1;
    check_equal(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(b), virt_to_mfn(a)), 0, "COPY_PAGE");
    for (int i = 0; i < 512; i++)
        wrong += b[i] != (u64)i * 3 + 1;
    check_equal(wrong, 0, "copied every word");
    check_equal(mmuext(MMUEXT_CLEAR_PAGE, virt_to_mfn(a), 0), 0, "CLEAR_PAGE");
    for (int i = 0; i < 512; i++)
        wrong += !!*(volatile u64 *)&a[i];
    check_equal(wrong, 0, "cleared every word");
    check_equal(mmuext(MMUEXT_CLEAR_PAGE, 0xffffffffff, 0), -XEN_EINVAL, "CLEAR_PAGE of no frame");
    check_equal(mmuext(MMUEXT_COPY_PAGE, 0xffffffffff, virt_to_mfn(a)), -XEN_EINVAL, "COPY_PAGE to no frame");
    check_equal(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(a), 0xffffffffff), -XEN_EINVAL, "COPY_PAGE from no frame");
}
