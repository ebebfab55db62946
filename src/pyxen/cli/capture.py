"""``pyxen pcap``: the frames of a network interface as a file that tcpdump and Wireshark read."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.host.client import Client
from pyxen.host.protocol import DOMAIN_RESOLVE, NETWORK_CAPTURE, Identifier, NetworkCaptureRequest


def run_capture(client: Client, domain: str, devid: int, path: Path | None) -> int:
    """Write frames until the interface is gone. Returns the exit status."""
    domid = client.call(DOMAIN_RESOLVE, Identifier(domain)).domid
    if path is None and sys.stdout.isatty():
        raise CommandFailed("a capture is no text: redirect it, or give a file with -w")
    lost = 0
    with ExitStack() as stack:
        events = stack.enter_context(client.stream(NETWORK_CAPTURE, NetworkCaptureRequest(domid, devid)))
        output = sys.stdout.buffer if path is None else None
        try:
            for event in events:
                # Only now: a wrong domain must not cost an old file.
                output = output or stack.enter_context(open(str(path), "wb"))
                output.write(event.data)
                output.flush()
                lost += event.lost
        except KeyboardInterrupt:
            pass
        finally:
            if lost:
                print(f"pyxen: {lost} frames were lost: the reader is too slow", file=sys.stderr)
    return EXIT_SUCCESS
