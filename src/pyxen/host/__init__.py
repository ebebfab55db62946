"""The host process: one machine, its hypervisor and Domain 0; and the control protocol by which commands reach it."""
