"""Fixtures for all tests: the guest packages, and a run-time folder (and so a host process) of each test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.packages import GuestPackages, fetch
from pyxen.guests.ramdisk import Ramdisk
from pyxen.host.client import connect, host_is_alive
from pyxen.host.protocol import HOST_STOP, HostError, Nothing
from pyxen.host.runtime_directory import RuntimeDirectory

#: How much of each log a failed test shows, in bytes from its end.
LOG_TAIL = 6000

_open_folders: list[Path] = []


def pytest_configure(config: pytest.Config) -> None:
    """What the environment of whoever runs the tests says about pyxen must not decide them."""
    os.environ["PYXEN_CACHE_DIR"] = os.environ.get("PYXEN_CACHE_DIR") or str(Path.home() / ".cache" / "pyxen")
    os.environ.pop("PYXEN_RUNTIME_DIR", None)
    # A run that is terminated ends as one that is interrupted: with its fixtures torn down, so that no host process stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextlib.contextmanager
def own_runtime_directory() -> Iterator[Path]:
    """A fresh run-time folder that ``PYXEN_RUNTIME_DIR`` names meanwhile. At the end its host is stopped and it is removed.

    Not below pytest's tmp_path, whose length leaves no room for the name of a Unix socket.
    """
    path = Path(tempfile.mkdtemp(prefix="pyxen-test-", dir="/tmp"))
    before = os.environ.get("PYXEN_RUNTIME_DIR")
    os.environ["PYXEN_RUNTIME_DIR"] = str(path)
    _open_folders.append(path)
    try:
        yield path
    finally:
        _open_folders.remove(path)
        if before is None:
            del os.environ["PYXEN_RUNTIME_DIR"]
        else:
            os.environ["PYXEN_RUNTIME_DIR"] = before
        try:
            _stop_host(RuntimeDirectory(path))
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _stop_host(runtime: RuntimeDirectory) -> None:
    """Stop the folder's host as a user would. One that does not obey is killed, and the test that left it so is told."""
    if not runtime.exists() or not host_is_alive(runtime):
        return
    try:
        with connect(runtime.path, start=False) as client:
            client.call(HOST_STOP, Nothing(), timeout=20)
            client.wait_for_exit(20)
    except (HostError, TimeoutError) as error:
        os.kill(int(runtime.host_pid.read_text().split()[0]), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while host_is_alive(runtime) and time.monotonic() < deadline:
            time.sleep(0.01)
        pytest.fail(f"the test's host process did not stop ({error}) and was killed")


@pytest.fixture
def runtime_directory() -> Iterator[Path]:
    """The test's own run-time folder. A host that is started in it is stopped at the end."""
    with own_runtime_directory() as path:
        yield path


@pytest.fixture(scope="module")
def shared_runtime_directory() -> Iterator[Path]:
    """A run-time folder that a module's tests share: for those that only look at one running guest."""
    with own_runtime_directory() as path:
        yield path


@pytest.fixture(scope="session")
def guest_packages() -> GuestPackages:
    """The distribution's kernel, busybox, GRUB images, Xen headers and xenstore tools; fetched if they are not cached."""
    return fetch()


@pytest.fixture(scope="session")
def demo_ramdisk(guest_packages: GuestPackages) -> Path:
    """The ramdisk with a shell on the console."""
    return Ramdisk(guest_packages.busybox).cached()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what its hosts and their guests had to say."""
    report = yield
    if report.failed:
        for folder in _open_folders:
            for log in sorted([folder / "host.log", *folder.glob("log/*.log")]):
                text = _tail(log)
                if text:
                    report.sections.append((f"{log.relative_to(folder)} (last {LOG_TAIL} bytes)", text))
    return report


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-LOG_TAIL:].decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
