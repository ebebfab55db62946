"""What only a real guest adds to the time line of a start-up: the store's use, and a device that connects."""

from __future__ import annotations

from pathlib import Path

from pyxen.guests.packages import GuestPackages
from pyxen.guests.ramdisk import Ramdisk
from pyxen.host.client import connect
from pyxen.host.protocol import DOMAIN_TIMELINE, DomainId, StageTime
from tests.linux.linux_guest import linux_host


def reached(runtime_directory: Path, domid: int, last: str) -> list[StageTime]:
    """The stages that were reached already, and those up to ``last``."""
    stages: list[StageTime] = []
    with connect(runtime_directory, start=False) as client, client.stream(DOMAIN_TIMELINE, DomainId(domid)) as stream:
        while not stages or stages[-1].more or last not in [stage.stage for stage in stages]:
            stage = stream.read(30.0)
            assert stage is not None, stages
            stages.append(stage)
    return stages


def test_store_and_device(runtime_directory: Path, guest_packages: GuestPackages, tmp_path: Path) -> None:
    module = guest_packages.module("xen-blkfront")
    ramdisk = Ramdisk(guest_packages.busybox, {"xen-blkfront.ko": module} if module else {}).cached()
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with linux_host(guest_packages, ramdisk) as boot:
        guest = boot(disk=[f"{image},raw,xvda,w"])
        if module:
            # Everything but the disk, which has no driver yet.
            stages = reached(runtime_directory, guest.domain.domid, "first console byte")
            assert "guest uses the store" in [stage.stage for stage in stages] and not any(stage.complete for stage in stages)
            guest.run("insmod /bin/xen-blkfront.ko")
        stages = reached(runtime_directory, guest.domain.domid, "vbd/51712 connected")
        assert stages[-1].complete
        times = {stage.stage: stage.time_s for stage in stages}
        assert times["first guest instruction"] < times["guest uses the store"] < times["vbd/51712 connected"]
