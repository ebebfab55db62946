"""Public headers under ``hvm/``: parameters and calls of HVM and PVH domains, and the PVH start information."""
