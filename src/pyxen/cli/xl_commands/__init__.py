"""The sub-commands of ``xl``, one module for each group."""
