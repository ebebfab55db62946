"""Xen's public ABI: constants and ``ctypes`` overlays, one module per public header of Xen 4.17.

Names are Xen's own, with leading double underscores and the ``xen_`` prefix of structures dropped (``__HYPERVISOR_iret`` is
``HYPERVISOR_iret``, ``struct xen_memory_map`` is ``memory_map``). A member whose C name is a Python keyword gets a trailing
underscore (``in_``). An unnamed C union or structure is called after its parent and member (``start_info_console``). Bit
positions that C spells with a leading underscore next to their mask (``_GTF_readonly``) are left out: the masks are enough.

Guest pointers (guest handles) are plain 64-bit integers. All layouts are those of a 64-bit x86 domain, little endian.
``tests/abi`` compiles the public headers and compares every size, offset and value.
"""
