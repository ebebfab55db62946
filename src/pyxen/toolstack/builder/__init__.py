"""The domain builder: from a kernel file, a ramdisk and a command line to a PV64 or PVH domain that is ready to run.

``open_kernel`` and ``open_ramdisk`` read and check the files, ``plan_pv_domain`` lays the domain out (no hypercall so far, so a bad
configuration costs nothing), ``build_pv_domain`` fills an empty domain. Every failure that the files or the configuration are to
blame for is a ``BuilderError`` of one line. ``open_pvh_kernel``, ``plan_pvh_domain`` and ``build_pvh_domain`` are the same for PVH.
"""

from pyxen.toolstack.builder.errors import (
    BuilderError,
    CommandLineError,
    HostMemoryError,
    KernelFileError,
    KernelFormatError,
    KernelUnsupportedError,
    MemoryTooSmallError,
    RamdiskError,
)
from pyxen.toolstack.builder.kernel_image import KernelImage, open_kernel
from pyxen.toolstack.builder.pv_builder import BuildResult, PvPlan, build_pv_domain, plan_pv_domain
from pyxen.toolstack.builder.pvh_builder import PvhPlan, build_pvh_domain, plan_pvh_domain
from pyxen.toolstack.builder.pvh_kernel import PvhKernel, open_pvh_kernel
from pyxen.toolstack.builder.ramdisk import Ramdisk, open_ramdisk
from pyxen.toolstack.builder.start_info import Connections

__all__ = [
    "BuildResult",
    "BuilderError",
    "CommandLineError",
    "Connections",
    "HostMemoryError",
    "KernelFileError",
    "KernelFormatError",
    "KernelImage",
    "KernelUnsupportedError",
    "MemoryTooSmallError",
    "PvPlan",
    "PvhKernel",
    "PvhPlan",
    "Ramdisk",
    "RamdiskError",
    "build_pv_domain",
    "build_pvh_domain",
    "open_kernel",
    "open_pvh_kernel",
    "open_ramdisk",
    "plan_pv_domain",
    "plan_pvh_domain",
]
