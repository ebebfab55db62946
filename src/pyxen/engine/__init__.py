"""Virtual CPUs. ``interface`` is what the hypervisor consumes; the other modules implement it."""
