"""What domains with hardware virtualisation have and PV domains have not: a physical address space, ring 0, a local APIC.

The only such type so far is PVH: no emulated devices. What all domains share (event channels, grants, time) is in the folder above.
"""
