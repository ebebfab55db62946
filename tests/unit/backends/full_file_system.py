"""Run in a mount name space of its own, on a small file system: python -m tests.unit.backends.full_file_system FOLDER.

A guest writes to a sparse image until the host has no more room. Prints what it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from pyxen.abi.io.blkif import BLKIF_OP_READ, BLKIF_OP_WRITE
from tests.unit.backends.block_guest import OKAY, block_world, data_segments, plain
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import new_machine

PAGES = 8
SECTORS = 8 * PAGES


async def main(folder: Path) -> None:
    hypervisor = new_machine()
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(256 << 10))
    image = folder / "sparse.img"
    image.touch()
    image.open("r+b").truncate(16 << 20)
    async with block_world(hypervisor, folder) as world:
        await world.attach(image)
        frontend = world.frontend
        await frontend.connect()
        statuses = [await frontend.request(plain(BLKIF_OP_WRITE, SECTORS * index, data_segments(PAGES))) for index in range(64)]
        print("written", statuses.count(OKAY), "refused", len(statuses) - statuses.count(OKAY))
        print("read", await frontend.request(plain(BLKIF_OP_READ, 0, data_segments(PAGES))))
        ballast.unlink()
        print("with room again", await frontend.request(plain(BLKIF_OP_WRITE, SECTORS * 63, data_segments(PAGES))))
    invariants.check(hypervisor)
    hypervisor.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, stream=sys.stdout, format="log: %(message)s")
    asyncio.run(main(Path(sys.argv[1])))
