"""Fixtures that boot Linux guests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.packages import GuestPackages
from tests.linux.linux_guest import BootLinux, LinuxGuest, linux_host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here boots guests."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.guest)


@pytest.fixture
def boot_linux(runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path) -> Iterator[BootLinux]:
    """Boots guests on a host of the test's own."""
    with linux_host(guest_packages, demo_ramdisk) as boot:
        yield boot


@pytest.fixture(scope="module")
def linux(shared_runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path) -> Iterator[LinuxGuest]:
    """One guest for all tests of a module, for those that only look at it."""
    with linux_host(guest_packages, demo_ramdisk) as boot:
        yield boot()
