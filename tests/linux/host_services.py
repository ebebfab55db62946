"""Servers on this machine's loopback, for guests that reach it through a NAT as 10.0.2.2."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pyxen.guests.packages import fetch_tool


@contextlib.contextmanager
def served(folder: Path) -> Iterator[int]:
    """An HTTP server that shows a folder; its port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """A port of the loopback that nobody listens at, just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def iperf3_server() -> Iterator[int]:
    """Its port."""
    program = fetch_tool("iperf3") / "usr/bin/iperf3"
    libraries = [str(path) for package in ("libiperf0", "libsctp1") for path in (fetch_tool(package) / "usr/lib").glob("*-linux-gnu")]
    port = free_port()
    command = [str(program), "--server", "--bind", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)}, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.terminate()
        server.wait()
