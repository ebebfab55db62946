"""Guest software for demos, tests and benchmarks: the distribution's packages, fetched without root, and a small ramdisk."""
