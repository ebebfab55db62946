"""The XenStore daemon of the embedded Domain 0: nodes, watches and transactions for guests, tools and Domain 0 itself."""
