"""``python -m pyxen.host``: the host process, started by the first command that needs it (see ``client``)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from pyxen.engine.interface import EngineError
from pyxen.engine.unicorn_engine import make_engine
from pyxen.host.machine_size import check_machine_bytes, check_processors, default_machine_bytes
from pyxen.host.process import HostLock, HostProcess, HostStartError, configure_logging
from pyxen.host.runtime_directory import RuntimeDirectory, RuntimeDirectoryError

_logger = logging.getLogger("pyxen.host")


class _Readiness:
    """Tells who started us, once, how it went: "ready" or a line of error through the pipe that we were given."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def tell(self, message: str) -> None:
        if self._descriptor is None:
            if message != "ready":
                print(f"pyxen host: {message}", file=sys.stderr)
            return
        try:
            os.write(self._descriptor, message.encode() + b"\n")
        except BrokenPipeError:
            pass  # whoever started us has gone; others may want the host
        os.close(self._descriptor)
        self._descriptor = None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pyxen.host", description=__doc__)
    parser.add_argument("--runtime-dir", required=True, help="the run-time folder")
    parser.add_argument("--memory", type=int, help="machine memory in bytes")
    parser.add_argument("--cpus", type=int, help="number of physical CPUs")
    parser.add_argument("--metrics", help="HOST:PORT to serve Prometheus metrics at")
    parser.add_argument("--ready-fd", type=int, help="file descriptor to tell readiness on")
    arguments = parser.parse_args()
    readiness = _Readiness(arguments.ready_fd)
    if arguments.ready_fd is not None:
        os.set_inheritable(arguments.ready_fd, False)
    try:
        _serve(arguments, readiness)
    except (HostStartError, RuntimeDirectoryError, EngineError, ValueError) as error:
        readiness.tell(str(error))
        return 1
    except OSError as error:
        _logger.exception("the host process failed")
        readiness.tell(str(error))
        return 1
    except Exception as error:
        _logger.exception("the host process failed")
        readiness.tell(f"the host process failed: {type(error).__name__}: {error}")
        return 1
    return 0


def _metrics_address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    from pyxen.host.metrics import parse_address  # who asks for no metrics does not wait for their libraries

    return parse_address(text)


def _serve(arguments: argparse.Namespace, readiness: _Readiness) -> None:
    os.umask(0o077)
    runtime = RuntimeDirectory(arguments.runtime_dir)
    runtime.prepare()
    memory_bytes = check_machine_bytes(arguments.memory) if arguments.memory is not None else default_machine_bytes()
    processors = None if arguments.cpus is None else check_processors(arguments.cpus)
    metrics_address = _metrics_address(arguments.metrics)
    lock = HostLock(runtime)
    try:
        configure_logging(runtime)
        runtime.remove_stale_entries()
        asyncio.run(HostProcess(runtime, make_engine, memory_bytes, processors, metrics_address).run(lambda: readiness.tell("ready")))
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main())
