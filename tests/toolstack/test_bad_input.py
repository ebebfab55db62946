"""Creations that can't succeed: one clear line, the right fault, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen import ErrorKind, HostError
from pyxen.guests.packages import GuestPackages
from tests.toolstack.tiny_kernels import IDLE, write_kernel
from tests.unit.builder.elf_maker import Elf, Load, bz_image

pytestmark = pytest.mark.timeout(60)

MEMORY = 512


@pytest.fixture(scope="module")
def host(shared_runtime_directory: Path) -> Iterator[pyxen.Host]:
    with pyxen.Host(shared_runtime_directory, memory=MEMORY) as host:
        yield host


@pytest.fixture
def good(tmp_path: Path) -> dict[str, object]:
    """A configuration that works."""
    return {"kernel": write_kernel(tmp_path, IDLE), "memory": 32, "name": "unlucky"}


class Holdings:
    """What the host holds for its domains."""

    def __init__(self, host: pyxen.Host, packages: GuestPackages) -> None:
        status = host.status
        folder = Path(status.runtime_directory)
        self.free = status.free_bytes
        self.domains = [domain.name for domain in host.domains()]
        self.consoles = sorted(path.name for path in (folder / "console").iterdir())
        self.files = sorted(os.readlink(f"/proc/{status.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{status.pid}/fd"))
        self.maps = sum("pyxen-machine-memory" in line for line in Path(f"/proc/{status.pid}/maps").open())
        environment = {"XENSTORED_PATH": str(folder / "xenstored" / "socket"), "LD_LIBRARY_PATH": str(packages.library_path)}
        command = [packages.xenstore_utils / "xenstore-ls", "-fp"]
        self.store = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holdings) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return repr(vars(self))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def other_architecture(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[18] = 183
    path.write_bytes(data)


def without_notes(path: Path) -> None:
    path.write_bytes(Elf([Load(b"\xf4" * 64, 0x1000000)], None).build())


def corrupt_payload(path: Path) -> None:
    path.write_bytes(bz_image(b"\x1f\x8b\x08" + bytes(100)))


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(100_000))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "No such file"),
        (empty, "empty"),
        (truncated, "truncated"),
        (other_architecture, "Arm64"),
        (without_notes, "Xen"),
        (corrupt_payload, "corrupt"),
        (noise, "kernel"),
        (folder, "directory"),
    ],
)
def test_bad_kernels(
    host: pyxen.Host, guest_packages: GuestPackages, good: dict[str, object], spoil: Callable[[Path], object], said: str
) -> None:
    kernel = good["kernel"]
    assert isinstance(kernel, Path)
    spoil(kernel)
    before = Holdings(host, guest_packages)
    with pytest.raises(HostError, match=f"(?i){said}") as refused:
        host.create(good)
    assert refused.value.kind is ErrorKind.INVALID
    assert str(kernel) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert Holdings(host, guest_packages) == before


@pytest.mark.parametrize(
    ("changes", "said", "kind"),
    [
        ({"ramdisk": "/no/such/ramdisk"}, "/no/such/ramdisk", ErrorKind.INVALID),
        ({"ramdisk": "/"}, "ramdisk /", ErrorKind.INVALID),
        ({"memory": 1}, "MiB", ErrorKind.INVALID),
        ({"memory": 4096}, "not enough free memory", ErrorKind.RESOURCE),
        ({"memory": 0}, "memory", ErrorKind.INVALID),
        ({"memory": "lots"}, "memory", ErrorKind.INVALID),
        ({"vcpus": 0}, "vcpus", ErrorKind.INVALID),
        ({"vcpus": 5000}, "vCPUs", ErrorKind.INVALID),
        ({"vcpus": 1_000_000}, "vcpus", ErrorKind.INVALID),
        ({"type": "hvm"}, "type", ErrorKind.INVALID),
        ({"type": "xyz"}, "type", ErrorKind.INVALID),
        ({"name": ""}, "name", ErrorKind.INVALID),
        ({"name": "a/b"}, "slash", ErrorKind.INVALID),
        ({"name": "Domain-0"}, "exists already", ErrorKind.EXISTS),
        ({"kernel": "relative"}, "relative", ErrorKind.INVALID),
        ({"kernel": ""}, "kernel", ErrorKind.INVALID),
        ({"uuid": "nonsense"}, "uuid", ErrorKind.INVALID),
        ({"cmdline": "x" * 5000}, "cmdline|command line", ErrorKind.INVALID),
        ({"cpus": "99"}, "CPU", ErrorKind.INVALID),
        ({"disk": ["/x,raw,xvda,rw"]}, "disk", ErrorKind.INVALID),
    ],
)
def test_bad_configurations(
    host: pyxen.Host, guest_packages: GuestPackages, good: dict[str, object], changes: dict[str, object], said: str, kind: ErrorKind
) -> None:
    from pyxen.host import protocol as p

    config = {key: str(value) if isinstance(value, Path) else value for key, value in {**good, **changes}.items()}
    before = Holdings(host, guest_packages)
    with pytest.raises(HostError, match=said) as refused:
        host.client.call(p.DOMAIN_CREATE, p.CreateRequest(config=config))
    assert refused.value.kind is kind
    assert "\n" not in str(refused.value)
    assert Holdings(host, guest_packages) == before


def test_ramdisk_larger_than_the_memory(host: pyxen.Host, guest_packages: GuestPackages, good: dict[str, object], tmp_path: Path) -> None:
    ramdisk = tmp_path / "ramdisk"
    with ramdisk.open("wb") as file:
        file.truncate(64 << 20)
    before = Holdings(host, guest_packages)
    with pytest.raises(HostError, match="memory|ramdisk") as refused:
        host.create(good, ramdisk=ramdisk)
    assert refused.value.kind is ErrorKind.INVALID
    assert Holdings(host, guest_packages) == before


def test_name_in_use(host: pyxen.Host, guest_packages: GuestPackages, good: dict[str, object]) -> None:
    with host.create(good):
        before = Holdings(host, guest_packages)
        with pytest.raises(HostError, match="exists already"):
            host.create(good)
        assert Holdings(host, guest_packages) == before


def test_memory_that_runs_out_comes_back(host: pyxen.Host, guest_packages: GuestPackages, good: dict[str, object]) -> None:
    before = Holdings(host, guest_packages)
    domains = []
    with pytest.raises(HostError) as refused:
        for number in range(100):
            domains.append(host.create(good, memory=48, name=f"many-{number}"))
    assert refused.value.kind is ErrorKind.RESOURCE
    assert len(domains) >= 7
    for domain in domains:
        domain.destroy()
    assert Holdings(host, guest_packages) == before


@pytest.mark.parametrize(
    ("text", "place"),
    [('name = "a"\nmemory =\n', "guest.cfg:2"), ('name = "a"\n\n$$$\n', "guest.cfg:3"), ('kernel = "x', "guest.cfg:1"), ("", "guest.cfg")],
)
def test_syntax_errors_have_their_place(host: pyxen.Host, tmp_path: Path, text: str, place: str) -> None:
    config = tmp_path / "guest.cfg"
    config.write_text(text)
    with pytest.raises(HostError, match=place):
        host.create(config)


def test_unknown_keys_are_warned_about(host: pyxen.Host, tmp_path: Path, good: dict[str, object]) -> None:
    config = tmp_path / "guest.cfg"
    config.write_text(f'name = "warned"\nmemmory = 64\nkernel = "{good["kernel"]}"\nmemory = 32\n')
    with pytest.warns(UserWarning, match=r"guest\.cfg:2.*memmory"):
        domain = host.create(config)
    domain.destroy()


def test_configuration_file_with_settings_on_top(host: pyxen.Host, tmp_path: Path, good: dict[str, object]) -> None:
    config = tmp_path / "guest.cfg"
    config.write_text(f'name = "file"\nkernel = "{good["kernel"]}"\nmemory = 32\nextra = "a"\n')
    with host.create(config, name='with "quotes"', memory=40, vcpus=2) as domain:
        assert (domain.name, domain.info.memory_kib, domain.info.vcpus_max) == ('with "quotes"', 40 << 10, 2)
    with pytest.raises(HostError, match="can't be read"):
        host.create(tmp_path / "missing.cfg")
