"""``xl vcpu-pin``, ``vcpu-set``, ``sched-*`` and ``cpupool-*`` on a real host with two physical CPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from tests.toolstack.tiny_kernels import LOOP, write_kernel
from tests.toolstack.xl_command import run, xl

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def host(runtime_directory: Path) -> Iterator[pyxen.Host]:
    with pyxen.Host(runtime_directory, memory=512, cpus=2) as host:
        yield host


@pytest.fixture
def guest(host: pyxen.Host, tmp_path: Path) -> Iterator[pyxen.Domain]:
    """One vCPU that spins, and one that is offline."""
    kernel = write_kernel(tmp_path, LOOP)
    with host.create(name="spin", kernel=kernel, memory=32, vcpus=1, maxvcpus=2) as domain:
        yield domain


def refused(*arguments: str) -> str:
    """The one line that a command that fails prints."""
    result = run("xl", *arguments)
    assert result.returncode == 1, result.stdout
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


def affinity(vcpu: int = 0) -> str:
    """What ``xl vcpu-list`` shows of a vCPU's affinities."""
    return xl("vcpu-list", "spin").splitlines()[1 + vcpu].split(maxsplit=6)[6]


def test_pinning(guest: pyxen.Domain) -> None:
    assert affinity() == "all / all"
    xl("vcpu-pin", "spin", "0", "1")
    assert affinity() == "1 / all" and affinity(1) == "all / all"
    xl("vcpu-pin", "spin", "all", "-", "0-1,^1")
    assert affinity() == "1 / 0" and affinity(1) == "all / 0"
    xl("vcpu-pin", "-f", "spin", "0", "all", "all")
    assert affinity() == "all / all"
    for vcpu, cpus, words in (
        ("0", "7", 'Could not set affinity for vcpu `0\': cpus: the host has none of the CPUs "7": it has 0, 1'),
        ("all", "7", "Could not set affinity: cpus"),
        ("2", "0", "Could not set affinity for vcpu `2': there is no vCPU 2"),
        ("x", "0", "Error: Invalid argument x as VCPU."),
        ("0", "one", '"one" is not a list of CPUs'),
    ):
        assert words in refused("vcpu-pin", "spin", vcpu, cpus)
    assert affinity() == "all / all", "nothing was changed"


def test_number_of_vcpus(host: pyxen.Host, guest: pyxen.Domain) -> None:
    xl("vcpu-set", "spin", "2")
    assert host.domain("spin").info.vcpus_max == 2
    assert "Requested 3 VCPUs, however maxcpus is 2!" in refused("vcpu-set", "-i", "spin", "3")
    assert "You are overcommmitting! You have 2 physical CPUs and want 3 vCPUs!" in refused("vcpu-set", "spin", "3")
    assert refused("vcpu-set", "spin", "many") == "Error: Invalid argument."
    assert "at least one vCPU" in refused("vcpu-set", "spin", "0")
    assert "invalid domain identifier" in refused("vcpu-set", "nobody", "1")


def test_weights_and_caps(guest: pyxen.Domain) -> None:
    table = "Cpupool Pool-0: ratelimit=1000us\nName                                ID Weight  Cap\n"
    row = f"spin                              {guest.domid:4d}    256    0\n"
    assert xl("sched-credit2") == table + "Domain-0                             0    256    0\n" + row
    xl("sched-credit2", "-d", "spin", "-w", "512", "-c", "50")
    assert xl("sched-credit2", "--domain=spin").splitlines()[1].split() == ["spin", str(guest.domid), "512", "50"]
    assert guest.info.cpu_weight == 512 and guest.info.cpu_cap == 50
    xl("sched-credit2", "-s", "-r", "2000")
    assert xl("sched-credit2", "-s") == "Cpupool Pool-0: ratelimit=2000us\n"
    for arguments, words in (
        (("-d", "spin", "-w", "0"), "a weight is 1 to 65535"),
        (("-d", "spin", "-c", "201"), "0 to 200"),
        (("-d", "0", "-w", "512"), "Domain-0"),
        (
            (
                "-d",
                "nobody",
            ),
            "invalid domain identifier",
        ),
        (("-w", "512"), "Must specify a domain."),
        (("-p", "nowhere"), "unknown cpupool 'nowhere'"),
        (("-s", "-r", "10"), "100 to 500000"),
        (("-d", "spin", "-w", "much"), "weight"),
    ):
        assert words in refused("sched-credit2", *arguments)
    assert xl("sched-credit") == xl("sched-rtds") == "", "no pool has these schedulers"
    assert refused("sched-credit", "-d", "spin") == "libxl_domain_sched_params_get returned credit2 not credit."
    assert refused("sched-rtds", "-d", "spin") == "libxl_domain_sched_params_get returned credit2 not rtds."


def test_configuration_keys(host: pyxen.Host, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, LOOP)
    xl("cpupool-cpu-remove", "Pool-0", "1")
    xl("cpupool-create", 'name="fast"')
    settings = {"kernel": str(kernel), "memory": 32, "pool": "fast", "cpu_weight": 700, "cap": 40, "cpus": "1", "cpus_soft": "1"}
    with host.create(name="spin", **settings) as domain:
        info = domain.info
        assert (info.cpupool, info.cpu_weight, info.cpu_cap) == ("fast", 700, 40)
        assert affinity() == "1 / 1"
    for changed, words in (
        ({"pool": "slow"}, "unknown cpupool 'slow'"),
        ({"cpus": "0"}, "CPU pool 1"),
        ({"cpus": "9"}, "none of the CPUs"),
    ):
        with pytest.raises(pyxen.HostError, match=re.escape(words)):
            host.create(name="spin", **(settings | changed))
    assert len(host.domains()) == 0


def test_pools(host: pyxen.Host, guest: pyxen.Domain, tmp_path: Path) -> None:
    header = "Name               CPUs   Sched     Active   Domain count\n"
    assert xl("cpupool-list") == header + "Pool-0               2   credit2       y          2\n"
    assert "no free cpu found" in refused("cpupool-create", 'name="other"')
    xl("cpupool-cpu-remove", "Pool-0", "1")
    assert xl("info", "free_cpus").strip() == "1"
    config = tmp_path / "other.cfg"
    config.write_text('name = "other"\nsched = "rr"\ncpus = "1"\n')
    assert "number of cpus: 1" in xl("cpupool-create", str(config))
    assert xl("cpupool-list", "-c") == "Name               CPU list\nPool-0             0\nother              1\n"
    xl("cpupool-migrate", "spin", "other")
    assert xl("list", "-c", "spin").splitlines()[1].split()[-1] == "other"
    assert guest.vcpus[0].cpu == 1
    assert refused("sched-credit2", "-d", "spin") == "libxl_domain_sched_params_get returned rr not credit2."
    for arguments, words in (
        (("cpupool-destroy", "other"), "Can't destroy cpupool 'other': it has 1 domain"),
        (("cpupool-destroy", "nowhere"), "unknown cpupool 'nowhere'"),
        (("cpupool-migrate", "0", "other"), "Domain-0"),
        (("cpupool-rename", "other", "Pool-0"), "already exists"),
        (("cpupool-numa-split",), "splitting not possible, already cpupools in use"),
        (("cpupool-create", 'name="third"', 'sched="fair"', 'cpus="1"'), "not free"),
        (("cpupool-create", 'name="third"', "nodes=3"), "nodes"),
    ):
        text = run("xl", *arguments)
        assert text.returncode == 1 and words in text.stderr, text
    text = run("xl", "cpupool-cpu-add", "other", "0")
    assert text.returncode == 1 and "CPU 0 is in CPU pool 0" in text.stderr
    xl("cpupool-rename", "other", "rest")
    xl("cpupool-migrate", "spin", "Pool-0")
    xl("cpupool-destroy", "rest")
    xl("cpupool-cpu-add", "Pool-0", "1")
    xl("cpupool-numa-split")
    assert xl("cpupool-list") == header + "Pool-node0           2   credit2       y          2\n"


def test_python_interface(guest: pyxen.Domain) -> None:
    guest.set_scheduling(weight=300)
    guest.pin_vcpu(0, "1")
    assert guest.info.cpu_weight == 300 and guest.vcpus[0].hard_affinity == [1]
    guest.pin_vcpu(None, "all")
    assert guest.vcpus[0].hard_affinity is None
    guest.set_vcpus(2)
    with pytest.raises(pyxen.HostError, match="maxcpus is 2"):
        guest.set_vcpus(3)
