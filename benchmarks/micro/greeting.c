/* @expect running
 * Says its name, and sleeps until it is destroyed: how fast domains come and go. */
#include "guest.h"

PROGRAM(greeting)
{
    for (;;)
        clock_sleep(1000 * SECONDS);
}
