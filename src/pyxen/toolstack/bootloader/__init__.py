"""``bootloader="pygrub"``: the kernel and ramdisk that a guest's own disk says it boots from.

A disk is the guest's to write, so all of it is read in a process of its own (``reader``) that can do nothing but read the disk and
write two files in memory. Only ``pygrub`` belongs to the host process.
"""
