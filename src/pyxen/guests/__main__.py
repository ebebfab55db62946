"""``python -m pyxen.guests``: fill the cache with the guest packages and the demo ramdisk, and print where they are."""

from __future__ import annotations

import argparse
import sys

from pyxen.guests.packages import PackageError, fetch, fetch_tool
from pyxen.guests.ramdisk import Ramdisk


def main() -> int:
    """Return the exit status: 0 when everything is in the cache."""
    parser = argparse.ArgumentParser(prog="python -m pyxen.guests", description=__doc__)
    parser.add_argument("--renew", action="store_true", help="fetch the newest packages even if the cache has some")
    parser.add_argument("--tool", metavar="PACKAGE", help="only unpack this package, for a program of it that pyxen runs (passt)")
    options = parser.parse_args()
    try:
        if options.tool:
            print(fetch_tool(options.tool, lambda line: print(f"guest packages: {line}", file=sys.stderr)))
            return 0
        packages = fetch(lambda line: print(f"guest packages: {line}", file=sys.stderr), renew=options.renew)
    except PackageError as error:
        print(f"pyxen: {error}", file=sys.stderr)
        return 1
    print(f"kernel:  {packages.kernel}\nramdisk: {Ramdisk(packages.busybox).cached()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
