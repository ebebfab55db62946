"""The virtual devices of domains, as the toolstack adds, removes and lists them."""
