"""The hypervisor: CPU, memory and interrupts of the guests, nothing else. No I/O, no files, no sockets.

``hypervisor.Hypervisor`` is the whole; ``dom0_interface`` is what Domain 0 sees of it; ``hypercall_table`` lists what guests may call.
"""
