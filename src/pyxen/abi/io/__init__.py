"""Public headers under ``io/``: layouts of the rings and pages shared between frontends, backends, console and XenStore."""
