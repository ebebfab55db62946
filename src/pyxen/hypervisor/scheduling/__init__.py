"""Which vCPU may execute when, and on which physical CPU: the dispatcher, CPU pools, and the schedulers that a pool can have."""
