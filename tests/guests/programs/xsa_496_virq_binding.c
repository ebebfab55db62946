/* XSA-496: binding a virtual IRQ of the control domain's, and failing to, spoilt what the store knows of domains. An unprivileged domain may bind
 * any number; nothing comes of those that are not its own, and the toolstack hears of this domain's end as ever. */
#include "guest.h"

PROGRAM(xsa_496_virq_binding)
{
    long bound[NR_VIRQS], again;
    unsigned refused = 0;

    for (unsigned virq = 0; virq < NR_VIRQS; virq++)
        bound[virq] = event_bind_virq(virq, 0);
    for (unsigned round = 0; round < 50; round++)
        for (unsigned virq = 0; virq < NR_VIRQS + 8; virq++) {
            again = event_bind_virq(virq, 0);
            refused += again < 0;
            if (again > 0)
                event_close(again);
            event_bind_virq(virq, 7);
        }
    check(bound[VIRQ_TIMER] > 0, "a virtual IRQ of its own");
    check(refused >= 50, "XSA-496: %u bindings are refused", refused);
    check_equal(event_bind_virq(VIRQ_DOM_EXC, 1), -XEN_EINVAL, "XSA-496: VIRQ_DOM_EXC, a global one, on another vCPU");
    for (unsigned virq = 0; virq < NR_VIRQS; virq++)
        if (bound[virq] > 0) {
            event_close(bound[virq]);
            bound[virq] = event_bind_virq(virq, 0);
        }
    check(bound[VIRQ_DOM_EXC] < 0 || !event_pending(bound[VIRQ_DOM_EXC]), "XSA-496: it tells of no other domain");
}
