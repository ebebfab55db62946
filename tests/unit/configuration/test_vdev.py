"""Names and numbers of virtual disks: the examples of vbd-interface(7), and what libxl makes of others."""

import pytest

from pyxen.toolstack.devices.vdev import device_number


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 51712),
        ("xvdb", 51728),
        ("xvda1", 51713),
        ("xvdp15", 202 << 8 | 15 << 4 | 15),
        ("xvda16", 1 << 28 | 16),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvdaa3", 1 << 28 | 26 << 8 | 3),
        ("d0", 51712),
        ("d2p2", 51746),
        ("d536p37", (1 << 28) + (536 << 8) + 37),
        ("hda", 3 << 8),
        ("hdb2", 3 << 8 | 64 | 2),
        ("hdc", 22 << 8),
        ("hdd63", 22 << 8 | 64 | 63),
        ("sda", 8 << 8),
        ("sdc3", 8 << 8 | 2 << 4 | 3),
        ("51712", 51712),
        ("0xca00", 51712),
    ],
)
def test_numbers(vdev: str, number: int) -> None:
    assert device_number(vdev) == number


@pytest.mark.parametrize("vdev", ["", "xvd", "xvda256", "hde", "hda64", "sdq", "sda16", "d", "d1048576", "floppy", "-1", "xvdA"])
def test_what_is_no_disk(vdev: str) -> None:
    with pytest.raises(ValueError):
        device_number(vdev)
