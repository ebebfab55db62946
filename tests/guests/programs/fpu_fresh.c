/* What a new domain finds in its FPU: the reset state, and nothing of another domain's. The other registers, too, have nothing in them. Then it
 * leaves marks in all of them for the next domain to find. */
#include "guest.h"

struct image {
    u16 fcw, fsw, ftw, fop;
    u64 fip, fdp;
    u32 mxcsr, mxcsr_mask;
    u64 registers[8][2], xmm[16][2], rest[12];
} __attribute__((packed, aligned(16)));

PROGRAM(fpu_fresh)
{
    static struct image image, marks;
    u64 bits = 0;

    memset(&image, 0xa5, sizeof(image));
    asm volatile("fxsave64 %0" : "=m"(image));
    check_equal(image.fcw, 0x37f, "FCW");
    check_equal(image.fsw, 0, "FSW");
    check_equal(image.ftw, 0, "FTW: all empty");
    check_equal(image.fop, 0, "FOP");
    check_equal(image.fip | image.fdp, 0, "FIP, FDP");
    check_equal(image.mxcsr, 0x1f80, "MXCSR");
    for (int i = 0; i < 8; i++)
        bits |= image.registers[i][0] | (image.registers[i][1] & 0xffff);
    check_equal(bits, 0, "ST0 to ST7");
    bits = 0;
    for (int i = 0; i < 16; i++)
        bits |= image.xmm[i][0] | image.xmm[i][1];
    check_equal(bits, 0, "XMM0 to XMM15");
    for (int i = 0; i < 4; i++)
        check(hypercall_get_debugreg(i) == 0, "DR%d", i);

    memset(&marks, 0x5a, sizeof(marks));
    marks.fcw = 0x27f;
    marks.mxcsr = 0x1fbf;
    asm volatile("fxrstor64 %0" ::"m"(marks));
    for (int i = 0; i < 4; i++)
        hypercall_set_debugreg(i, 0x5a5a000);
}
