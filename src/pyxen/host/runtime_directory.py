"""The host's run-time folder: where it is, what is in it, and that it is ours alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: A Unix socket's path must fit into sockaddr_un (108 bytes with the final zero); the longest below is ``xenstored/socket``.
_LONGEST_SOCKET_NAME = len("/xenstored/socket")
_SUN_PATH_BYTES = 108


class RuntimeDirectoryError(Exception):
    """The folder can't be used; the text says why and what to do."""


class RuntimeDirectory:
    """``$PYXEN_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR/pyxen``, else ``/tmp/pyxen-<uid>``."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(os.path.abspath(path)) if path is not None else self.default_path()

    @staticmethod
    def default_path() -> Path:
        chosen = os.environ.get("PYXEN_RUNTIME_DIR")
        if chosen:
            return Path(os.path.abspath(chosen))
        session = os.environ.get("XDG_RUNTIME_DIR")
        if session and os.path.isdir(session):
            return Path(session) / "pyxen"
        return Path(f"/tmp/pyxen-{os.getuid()}")

    @property
    def host_socket(self) -> Path:
        return self.path / "host.sock"

    @property
    def host_pid(self) -> Path:
        """Holds the host's process id, and the lock that the host keeps for as long as it lives."""
        return self.path / "host.pid"

    @property
    def host_log(self) -> Path:
        return self.path / "host.log"

    @property
    def start_lock(self) -> Path:
        """Held by a client while it starts the host."""
        return self.path / "lock"

    @property
    def store_socket(self) -> Path:
        return self.path / "xenstored" / "socket"

    @property
    def console_links(self) -> Path:
        return self.path / "console"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def hypervisor_log(self) -> Path:
        return self.logs / "hypervisor.log"

    @property
    def dumps(self) -> Path:
        return self.path / "dump"

    def exists(self) -> bool:
        return self.path.is_dir()

    def check(self) -> None:
        """The folder exists and belongs to us alone. Raises ``RuntimeDirectoryError``."""
        try:
            status = os.lstat(self.path)
        except OSError as error:
            raise RuntimeDirectoryError(f"run-time folder {self.path}: {error.strerror}") from None
        if not stat.S_ISDIR(status.st_mode):
            raise RuntimeDirectoryError(f"run-time folder {self.path} is not a folder; set PYXEN_RUNTIME_DIR to another path")
        if status.st_uid != os.getuid():
            raise RuntimeDirectoryError(
                f"run-time folder {self.path} belongs to user {status.st_uid}, not to you; set PYXEN_RUNTIME_DIR to a folder of your own"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise RuntimeDirectoryError(f"run-time folder {self.path} is open to other users; run: chmod 700 {self.path}")
        if len(os.fsencode(self.path)) + _LONGEST_SOCKET_NAME >= _SUN_PATH_BYTES:
            raise RuntimeDirectoryError(
                f"run-time folder {self.path}: the path is too long for a Unix socket; set PYXEN_RUNTIME_DIR to a shorter one"
            )

    def prepare(self) -> None:
        """Make the folder and its sub-folders where they are missing. Raises ``RuntimeDirectoryError``."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            pass  # not a folder: check() says so
        except OSError as error:
            raise RuntimeDirectoryError(f"run-time folder {self.path}: {error.strerror}") from None
        self.check()
        for folder in (self.store_socket.parent, self.console_links, self.logs, self.dumps):
            folder.mkdir(mode=0o700, exist_ok=True)

    def remove_stale_entries(self) -> None:
        """Remove the sockets and console links of a host that was killed. Only for the holder of the ``host_pid`` lock."""
        for socket_path in (self.host_socket, self.store_socket):
            socket_path.unlink(missing_ok=True)
        for link in self.console_links.iterdir():
            link.unlink(missing_ok=True)
