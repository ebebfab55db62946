"""Debian's network frontend (the kernel's own module) on pyxen's network backend.

All traffic is on the loopback or inside the host process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages, fetch_tool
from pyxen.host.protocol import (
    BACKEND_RESTART,
    NETWORK_ATTACH,
    NETWORK_DETACH,
    NETWORK_LIST,
    BackendRestartRequest,
    DomainId,
    NetworkAttachRequest,
    NetworkDetachRequest,
    NetworkInterface,
)
from tests.linux.host_services import free_port, served
from tests.linux.linux_guest import LONG, BootLinux, LinuxGuest
from tests.linux.network_guest import lease, network_host, network_ramdisk
from tests.toolstack.xl_command import run, xl

pytestmark = pytest.mark.timeout(1500 if LONG else 300)

MIB = 1 << 20
CONNECTED = 4
IPV6_ROUTES = Path("/proc/net/ipv6_route")
PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def ramdisk(guest_packages: GuestPackages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fetch_tool("passt")
    echo = tmp_path_factory.mktemp("programs") / "udp_echo"
    subprocess.run(["gcc", "-O2", "-static", "-s", "-o", echo, PROGRAMS / "udp_echo.c"], check=True)
    return network_ramdisk(guest_packages, udp_echo=echo.read_bytes())


@pytest.fixture
def boot(runtime_directory: Path, guest_packages: GuestPackages, ramdisk: Path) -> Iterator[BootLinux]:
    with network_host(guest_packages, ramdisk) as boot:
        yield boot


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder, and the port of the loopback where an HTTP server shows it."""

    with served(tmp_path) as port:
        yield tmp_path, port


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def interfaces(guest: LinuxGuest) -> list[NetworkInterface]:
    return guest.domain._client.call(NETWORK_LIST, DomainId(guest.domain.domid)).interfaces


def links(guest: LinuxGuest) -> list[str]:
    return sorted(line.split(":")[0].strip() for line in guest.run("cat /proc/net/dev").splitlines() if ":" in line)


def passt_processes() -> list[str]:
    return subprocess.run(["pgrep", "-x", "passt|passt.avx2"], capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_nat_gives_an_address_and_reaches_a_server_on_the_host(boot: BootLinux, web_server: tuple[Path, int], kind: str) -> None:
    folder, port = web_server
    content = os.urandom(8 * MIB)
    (folder / "file").write_bytes(content)
    guest = boot(type=kind, vif=["mac=00:16:3e:11:22:33"])
    assert "bound 10.0.2.15/24 router 10.0.2.2 mtu 65520" in lease(guest)
    fetched = guest.run(f"wget -q -O - http://10.0.2.2:{port}/file | md5sum", 60).split()[0]
    assert fetched == hashlib.md5(content, usedforsecurity=False).hexdigest()
    [interface] = interfaces(guest)
    assert (interface.devid, interface.mac, interface.state, interface.bridge) == (0, "00:16:3e:11:22:33", CONNECTED, "")
    assert interface.tx_bytes > len(content)
    assert guest.run("cat /sys/class/net/eth0/address").strip() == interface.mac
    # TCP segments of 64 KiB, in pages of 4 KiB: far fewer packets than an Ethernet would have.
    assert interface.tx_packets < len(content) / 20_000


def test_forwarded_ports_reach_into_the_guest(boot: BootLinux) -> None:
    port = free_port()
    guest = boot(vif=[f"forward={port}:80"])
    lease(guest)
    guest.run("mkdir /tmp/www; dd if=/dev/urandom of=/tmp/www/x bs=64k count=16 2>&-; httpd -p 80 -h /tmp/www")
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.settimeout(20)
        connection.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    body = answer.split(b"\r\n\r\n", 1)[1]
    assert len(body) == MIB
    assert hashlib.md5(body, usedforsecurity=False).hexdigest() == guest.run("md5sum /tmp/www/x").split()[0]


def echoed(address: tuple[str, int], data: bytes) -> bytes:
    """What comes back for a datagram; the first one may get lost, while the guest's router looks for it."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        for _ in range(10):
            client.sendto(data, address)
            with contextlib.suppress(TimeoutError):
                return client.recv(65536)
    raise AssertionError(f"nothing came back from {address}")


def test_udp_is_forwarded(boot: BootLinux) -> None:
    port = free_port()
    guest = boot(vif=[f"forward=udp/{port}:7"])
    lease(guest)
    guest.run("udp_echo 7 & :")
    for size in (1, 1400, 9000):
        data = os.urandom(size)
        assert echoed(("127.0.0.1", port), data) == data
    with socket.socket() as tcp:  # a UDP forward is none of TCP
        assert tcp.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_forwards_by_ipv6(boot: BootLinux) -> None:
    if not any(line.startswith("0" * 32 + " 00") and not line.rstrip().endswith(" lo") for line in IPV6_ROUTES.read_text().splitlines()):
        pytest.skip("passt gives guests IPv6 only if this machine has a default route for it")
    tcp_port, udp_port = free_port(), free_port()
    guest = boot(vif=[f"forward=[::1]/{tcp_port}:80,forward=udp/::1/{udp_port}:7"])
    guest.run("for i in $(seq 30); do ip -6 addr show dev eth0 scope global | grep -v tentative | grep inet6 && break; sleep 1; done", 60)
    guest.run("mkdir /tmp/www; echo by six >/tmp/www/x; httpd -p 80 -h /tmp/www; udp_echo 7 & :")
    data = os.urandom(1200)
    assert echoed(("::1", udp_port), data) == data
    with socket.create_connection(("::1", tcp_port), 20) as connection:
        connection.settimeout(20)
        connection.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: connection.recv(65536), b"")).endswith(b"\r\n\r\nby six\n")


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_a_queue_for_each_vcpu(boot: BootLinux, web_server: tuple[Path, int], kind: str) -> None:
    folder, port = web_server
    contents = [os.urandom(2 * MIB) for _ in range(4)]
    for number, content in enumerate(contents):
        (folder / f"file{number}").write_bytes(content)
    guest = boot(vcpus=2, type=kind)
    lease(guest)
    assert guest.run("ls /sys/class/net/eth0/queues").split() == ["rx-0", "rx-1", "tx-0", "tx-1"]
    fetch = f"wget -q -O - http://10.0.2.2:{port}/file$i | md5sum >/tmp/sum$i &"
    guest.run(f"for r in 1 2 3; do for i in 0 1 2 3; do {fetch} done; wait; done; cat /tmp/sum?", 90)
    sums = guest.run("cat /tmp/sum?").split()[::2]
    assert sums == [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in contents]
    interrupts = [line.split() for line in guest.run("grep vif0-q /proc/interrupts").splitlines()]
    counts = {fields[-1]: sum(int(field) for field in fields[1:] if field.isdigit()) for fields in interrupts}
    assert set(counts) == {f"vif0-q{queue}-{side}" for queue in (0, 1) for side in ("tx", "rx")}
    assert counts["vif0-q0-rx"] and counts["vif0-q1-rx"], counts


def test_two_domains_talk_over_a_switch(boot: BootLinux) -> None:
    first = boot(name="first", vif=["bridge=lab"])
    second = boot(name="second", vif=["bridge=lab"])
    first.run("ip addr add 10.9.0.1/24 dev eth0")
    second.run("ip addr add 10.9.0.2/24 dev eth0")
    assert "3 packets received" in first.run("ping -c 3 -i 0.2 10.9.0.2")
    megabytes, times = (64, 16) if LONG else (16, 1)
    first.run(f"mkdir /tmp/www; dd if=/dev/urandom of=/tmp/www/x bs=1M count={megabytes} 2>&-; httpd -p 80 -h /tmp/www", 90)
    sums = second.run(f"for i in $(seq {times}); do wget -q -O - http://10.9.0.1/x | md5sum; done", 1200).split()[::2]
    assert sums == [first.run("md5sum /tmp/www/x", 60).split()[0]] * times
    [interface] = interfaces(second)
    assert interface.tx_bytes > megabytes * times * MIB
    assert interface.bridge == "lab"


def test_hot_plug_and_unplug(boot: BootLinux) -> None:
    guest = boot(vif=[])
    client, domid = guest.domain._client, guest.domain.domid
    assert links(guest) == ["lo"]
    client.call(NETWORK_ATTACH, NetworkAttachRequest(domid, "mac=00:16:3e:00:00:01"))
    until(lambda: links(guest) == ["eth0", "lo"])
    client.call(NETWORK_ATTACH, NetworkAttachRequest(domid, "bridge=lab"))
    until(lambda: links(guest) == ["eth0", "eth1", "lo"])
    guest.run("ip link set eth0 up")
    assert "bound 10.0.2.15" in lease(guest)
    assert len(passt_processes()) >= 1
    client.call(NETWORK_DETACH, NetworkDetachRequest(domid, "00:16:3E:00:00:01"))
    until(lambda: links(guest) == ["eth1", "lo"])
    client.call(NETWORK_DETACH, NetworkDetachRequest(domid, "1", force=True))
    assert interfaces(guest) == []


def xl_refuses(arguments: tuple[str, ...], words: str) -> None:
    """In one line."""
    failed = run("xl", *arguments)
    assert failed.returncode == 1, arguments
    assert words in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_xl_network_commands(boot: BootLinux) -> None:
    guest = boot(name="net", vif=[])
    xl("network-attach", "net", "mac=00:16:3e:aa:bb:cc", "bridge=lab", "rate=10Mb/s")
    until(lambda: [interface.state for interface in interfaces(guest)] == [CONNECTED])  # Linux shows eth0 before that
    assert json.loads(xl("-N", "network-attach", "net", "bridge=lab", "rate=1MB/s@20ms", "devid=3").removeprefix("vif:")) == {
        "devid": 3,
        "bridge": "lab",
        "rate_bytes_per_interval": 20000,
        "rate_interval_usecs": 20000,
    }
    header, row = xl("network-list", "net").splitlines()
    assert header.split() == ["Idx", "BE", "Mac", "Addr.", "handle", "state", "evt-ch", "tx-/rx-ring-ref", "BE-path"]
    path = f"/local/domain/0/backend/vif/{guest.domain.domid}/0"
    assert row.split()[:5] == ["0", "0", "00:16:3e:aa:bb:cc", "0", "4"] and row.split()[-1] == path
    xl_refuses(("network-attach", "net", "devid=0"), "has a network interface 0 already")
    xl("network-detach", "net", "0")
    # From here on the guest need not answer: xen-netfront waits for ever for the backend of an interface that comes and goes again.
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        for arguments, words in (
            (("network-attach", "net", "bridge=lo"), "no bridge"),
            (("network-attach", "net", f"forward={port}:80"), f"127.0.0.1/{port}:80; is a port in use"),
            (("network-attach", "net", "script=vif-bridge", "bridge=nosuch"), "nosuch"),
            (("network-attach", "net", "script=vif-route"), "vif-route is not supported"),
            (("network-attach", "net", "mac=1:2"), "not a MAC address"),
            (("network-detach", "net", "7"), "Unknown device 7."),
        ):
            xl_refuses(arguments, words)
    assert xl("network-list", "net").count("\n") == 1


def test_interfaces_survive_a_reboot_of_the_domain(boot: BootLinux) -> None:
    guest = boot(name="again")
    [before] = interfaces(guest)
    guest.domain.reboot()
    guest.domain.wait("destroyed", 30)
    with pyxen.Host() as host:
        until(lambda: any(entry.name == "again" for entry in host.domains()), 30)
        restarted = LinuxGuest(host.domain("again"))
        restarted.wait_for_prompt()
        [after] = interfaces(restarted)
        assert after.mac == before.mac


def test_capture_is_a_pcap_file(boot: BootLinux, tmp_path: Path) -> None:
    guest = boot(name="seen", vif=["bridge=lab,mac=00:16:3e:00:00:05"])
    path = tmp_path / "x.pcap"
    with subprocess.Popen([sys.executable, "-m", "pyxen.cli.pyxen", "pcap", "seen", "0", "-w", str(path)]) as capture:
        until(lambda: path.exists() and path.stat().st_size >= 24)
        guest.run("ip addr add 10.9.0.1/24 dev eth0; arping -c 2 -I eth0 10.9.0.2 || true")
        guest.domain.destroy()
        assert capture.wait(20) == 0
    data = path.read_bytes()
    assert struct.unpack_from("<IHH", data) == (0xA1B23C4D, 2, 4)
    frames, start = [], 24
    while start < len(data):
        size = struct.unpack_from("<IIII", data, start)[2]
        frames.append(data[start + 16 : start + 16 + size])
        start += 16 + size
    requests = [frame for frame in frames if frame[12:14] == b"\x08\x06"]
    assert len(requests) >= 2
    assert {frame[6:12].hex(":") for frame in requests} == {"00:16:3e:00:00:05"}
    assert all(frame[38:42] == bytes([10, 9, 0, 2]) or frame[38:42] == bytes([10, 9, 0, 1]) for frame in requests)


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge of this machine with the address 10.77.0.1, that leads nowhere else."""
    name = f"pyxen{os.getpid() % 100000}"
    if os.geteuid() or not os.path.exists("/dev/net/tun") or subprocess.run(["ip", "link", "add", name, "type", "bridge"]).returncode:
        pytest.skip("bridges need root, /dev/net/tun and a kernel that has them")
    try:
        subprocess.run(["ip", "addr", "add", "10.77.0.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def test_a_bridge_of_the_host(boot: BootLinux, bridge: str) -> None:
    guest = boot(vif=[f"bridge={bridge},vifname=pyxtap"])
    guest.run("ip addr add 10.77.0.2/24 dev eth0; mkdir /tmp/www; dd if=/dev/urandom of=/tmp/www/x bs=64k count=64 2>&-")
    assert f"master {bridge}" in subprocess.run(["ip", "link", "show", "pyxtap"], capture_output=True, text=True, check=True).stdout
    guest.run("httpd -p 80 -h /tmp/www")
    assert "3 packets received" in guest.run("ping -c 3 -i 0.2 10.77.0.1")
    with socket.create_connection(("10.77.0.2", 80), 20) as connection:
        connection.settimeout(20)
        connection.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    body = answer.split(b"\r\n\r\n", 1)[1]
    assert hashlib.md5(body, usedforsecurity=False).hexdigest() == guest.run("md5sum /tmp/www/x").split()[0]
    server = socket.create_server(("10.77.0.1", 0))
    with server:
        guest.run(f"nc 10.77.0.1 {server.getsockname()[1]} </tmp/www/x & true")
        connection, _ = server.accept()
        with connection:
            assert b"".join(iter(lambda: connection.recv(65536), b"")) == body
    guest.domain.destroy()
    until(lambda: not os.path.exists("/sys/class/net/pyxtap"))


def test_a_backend_restarted_under_load(boot: BootLinux, web_server: tuple[Path, int]) -> None:
    folder, port = web_server
    content = os.urandom(16 * MIB)
    (folder / "file").write_bytes(content)
    guest = boot(name="load")
    lease(guest)
    client, domid = guest.domain._client, guest.domain.domid
    guest.run(f"while [ ! -e /tmp/stop ]; do wget -q -O - http://10.0.2.2:{port}/file | md5sum >>/tmp/sums; done & true")
    [before] = interfaces(guest)
    for _ in range(100 if LONG else 10):
        client.call(BACKEND_RESTART, BackendRestartRequest(domid, "vif0"))
        time.sleep(0.1)
    [after] = interfaces(guest)
    assert after.tx_bytes > before.tx_bytes, "there was a load"
    guest.run("touch /tmp/stop")
    guest.run("wait", 90)
    sums = guest.run("cut -d' ' -f1 /tmp/sums").split()
    assert sums and set(sums) == {hashlib.md5(content, usedforsecurity=False).hexdigest()}


def test_a_killed_passt_comes_back(boot: BootLinux, web_server: tuple[Path, int]) -> None:
    folder, port = web_server
    (folder / "file").write_bytes(b"still here")
    before = set(passt_processes())
    guest = boot()
    lease(guest)
    [pid] = set(passt_processes()) - before
    os.kill(int(pid), 9)
    until(lambda: bool(set(passt_processes()) - before - {pid}))
    until(lambda: guest.attempt(f"wget -q -O - http://10.0.2.2:{port}/file")[1] == "still here")


def test_a_domain_leaves_no_passt(boot: BootLinux) -> None:
    before = set(passt_processes())
    guest = boot()
    assert len(set(passt_processes()) - before) == 1
    guest.domain.destroy()
    assert set(passt_processes()) <= before
