/* The one header that a program includes. */
#pragma once

#include "types.h"

#include "apic.h"
#include "check.h"
#include "console.h"
#include "event.h"
#include "hypercall.h"
#include "processor.h"
#include "segments.h"
#include "smp.h"
#include "start.h"
#include "trap.h"

/* PROGRAM(name) { body }: what a program file consists of. */
#define PROGRAM(name)                      \
    const char program_name[] = #name;     \
    void program(void)
