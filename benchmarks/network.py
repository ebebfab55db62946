"""A guest's network: to the host (NAT), and between two guests; the same program and kernel on pyxen and on QEMU TCG with virtio."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import qemu
from bench_host import Bench
from comparison import run_alone
from guest_image import NETWORK_MODULES, Rate, compile_program, network_ramdisk, parse

from pyxen.guests.packages import GuestPackages

PROMPT = "guest# "
TIMEOUT = 120.0
TITLE = "Network: TCP, one connection (net.c)"
PORT = 5201
#: How both NATs call the host's loopback.
HOST = "10.0.2.2"
FIRST, SECOND = "10.9.0.1", "10.9.0.2"
_TO_HOST = "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 mtu 65520 up; sleep 1"


def measure(bench: Bench, packages: GuestPackages, seconds: float, *, with_qemu: bool) -> tuple[dict[str, Rate], dict[str, Rate] | None]:
    """Rates on pyxen, and on QEMU with virtio if wanted."""
    ramdisk = network_ramdisk(packages)
    with _server(bench.directory):
        guest = bench.create("net", 256, ramdisk=ramdisk, keys='vif = [""]')
        rates = _run(guest, ["xen-netfront"], _TO_HOST, HOST, seconds, "guest_to_host")
        bench.destroy("net", guest)
        terminals = [bench.create(name, 256, ramdisk=ramdisk, keys='vif = ["bridge=bench"]') for name in ("net1", "net2")]
        rates |= _between(terminals, ["xen-netfront"], seconds)
        for name, terminal in zip(("net1", "net2"), terminals, strict=True):
            bench.destroy(name, terminal)
        return rates, _measure_qemu(packages.kernel, ramdisk, bench.directory, seconds) if with_qemu else None


def _measure_qemu(kernel: Path, ramdisk: Path, directory: Path, seconds: float) -> dict[str, Rate]:
    """QEMU's own NAT (slirp) with its largest packet, and a socket between two machines."""
    guest = qemu.shell(kernel, ramdisk, ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"], TIMEOUT)
    with contextlib.closing(guest):
        rates = _run(guest, list(NETWORK_MODULES), _TO_HOST.replace(" mtu 65520", ""), HOST, seconds, "guest_to_host")
    with contextlib.ExitStack() as stack:
        terminals = []
        for server, mac in (("on", "52:54:00:00:00:01"), ("off", "52:54:00:00:00:02")):
            link = f"stream,id=n,server={server},addr.type=unix,addr.path={directory / 'link'}"
            terminal = qemu.shell(kernel, ramdisk, ["-netdev", link, "-device", f"virtio-net-pci,netdev=n,mac={mac}"], TIMEOUT)
            terminals.append(stack.enter_context(contextlib.closing(terminal)))
            terminal.timeout = TIMEOUT
            terminal.expect_exact(PROMPT)
            terminal.sendline("")
        return rates | _between(terminals, list(NETWORK_MODULES), seconds)


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[None]:
    program = directory / "net"
    program.write_bytes(compile_program("net.c"))
    program.chmod(0o700)
    with subprocess.Popen([program, "server", str(PORT)]) as server:
        yield
        server.terminate()


def _between(terminals: list[pexpect.spawn[str]], modules: list[str], seconds: float) -> dict[str, Rate]:
    server, client = terminals
    _prepare(server, modules, f"ip addr add {FIRST}/24 dev eth0; ip link set eth0 up; net server {PORT} &")
    return _run(client, modules, f"ip addr add {SECOND}/24 dev eth0; ip link set eth0 up; sleep 1", FIRST, seconds, "guest_to_guest")


def _prepare(terminal: pexpect.spawn[str], modules: list[str], command: str) -> None:
    terminal.timeout = TIMEOUT
    terminal.expect_exact(PROMPT)
    for module in modules:
        terminal.sendline(f"insmod /bin/{module}.ko 2>/dev/null")
        terminal.expect_exact(PROMPT)
    terminal.sendline(command)
    terminal.expect_exact(PROMPT)


def _run(terminal: pexpect.spawn[str], modules: list[str], command: str, server: str, seconds: float, prefix: str) -> dict[str, Rate]:
    _prepare(terminal, modules, command)
    terminal.timeout = TIMEOUT + 10 * seconds
    terminal.sendline(f"net client {server} {PORT} {seconds:g} {prefix}; echo ended")
    terminal.expect(r"ended\r*\n.*?ended\r*\n|\nended\r*\n")
    return parse((str(terminal.before) + str(terminal.after)).replace("\r", ""))


if __name__ == "__main__":
    # Only this: python benchmarks/network.py [SECONDS]
    run_alone(TITLE, measure)
