"""Keys: types, ranges, and what several keys say together."""

import pytest

from pyxen.toolstack.configuration import ConfigError, DomainConfig, UnsupportedError, parse
from pyxen.toolstack.configuration.cpu_list import parse_cpu_list

BASE = 'name="d"\nkernel="/k"\n'


def read(text: str) -> DomainConfig:
    return DomainConfig.read(parse(BASE + text, "f"))[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vcpus=0", "f:3: `vcpus': 0 is smaller than the minimum, 1"),
        ("vcpus=99999", "f:3: `vcpus': 99999 is greater than the maximum, 8192"),
        ("vcpus=[1]", "f:3: `vcpus': is a list, but should be a number"),
        ('\nmemory="512M"', 'f:4: `memory\': "512M" is not a number'),
        ("memory=09", 'f:3: `memory\': "09" is not a number'),
        ('memory="-5"', "f:3: `memory': -5 is smaller than the minimum, 1"),
        ("memory=99999999999999999999", "f:3: `memory': the number 99999999999999999999 is out of range"),
        ("memory=" + "9" * 5000, "f:3: `memory': the number 99999999999999999999... is out of range"),
        ('type="vm"', 'f:3: `type\': unknown value "vm"; it must be one of: pv, pvh, hvm'),
        ('on_crash="explode"', 'f:3: `on_crash\': unknown value "explode"; it must be one of: destroy, restart,'),
        ('name="a/b"', 'f:3: `name\': "a/b" is not a name'),
        ('name=" "', "f:3: `name': must not be empty"),
        ('extra="a\\nb"', "f:3: `extra': contains a control character"),
        ('uuid="12"', 'f:3: `uuid\': "12" is not a UUID'),
        ('disk="x"', "f:3: `disk': is a single value, but should be a list"),
        ('disk=["/a"]', 'f:3: `disk\': entry 0, "/a": no vdev is given'),
        ('vif=["","mac=x"]', 'f:3: `vif\': entry 1, "mac=x": "x" is not a MAC address'),
        ('cpus="0-"', 'f:3: `cpus\': "0-" is not a list of CPUs'),
        ('cpus="^all"', "f:3: `cpus': \"^all\": can't combine"),
        ("maxvcpus=1;vcpus=2", "f:3: maxvcpus (1) is less than vcpus (2)"),
        ("maxmem=100;memory=200", "f:3: maxmem (100) is less than memory (200)"),
        ('builder="hvm";type="pv"', 'f:3: contradicting "builder" and "type"'),
        ('firmware="pvgrub64"', "f:3: both kernel and firmware are given"),
        ('acpi="x"', 'f:3: `acpi\': "x" is not a number'),
        ("pci=1", "f:3: `pci': is a single value"),
        ('tsc_mode="slow"', 'f:3: `tsc_mode\': unknown value "slow"; it must be one of: default, always_emulate, native'),
        ("tsc_mode=4", 'f:3: `tsc_mode\': unknown value "4"'),
        ('tsc_mode="native_paravirt"', "f:3: `tsc_mode': native_paravirt does not exist any more"),
        ("tsc_mode=3", "f:3: `tsc_mode': native_paravirt does not exist any more"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("text", "mode"), [("", "default"), ("tsc_mode=1", "always_emulate"), ("tsc_mode='native'", "native")])
def test_time_stamp_counter(text: str, mode: str) -> None:
    config, warnings = DomainConfig.read(parse(BASE + text, "f"))
    assert config.tsc_mode == mode
    assert len(warnings) == (text == "tsc_mode=1")


def test_name_and_kernel_are_needed() -> None:
    with pytest.raises(ConfigError, match="^f: the domain must have a name"):
        DomainConfig.read(parse('kernel="/k"', "f"))
    with pytest.raises(ConfigError, match="^f: neither kernel nor bootloader"):
        DomainConfig.read(parse('name="d"', "f"))


@pytest.mark.parametrize(
    ("text", "amounts"),
    [("", (32, 32)), ("memory=64", (64, 64)), ("maxmem=64", (64, 64)), ("memory=64\nmaxmem=128", (64, 128)), ("memory=0100", (64, 64))],
)
def test_memory(text: str, amounts: tuple[int, int]) -> None:
    config = read(text)
    assert (config.memory_mib, config.maxmem_mib) == amounts


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ('root="/dev/a"', "root=/dev/a"),
        ('extra="q"', "q"),
        ('root="/dev/a";extra="q"', "root=/dev/a q"),
        ('cmdline="c";extra="q"', "c"),
        ('cmdline="";extra="q"', ""),
    ],
)
def test_command_line(text: str, line: str) -> None:
    assert read(text).command_line == line


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('type="hvm"', "f:3"),
        ('builder="hvm"', "f"),
        ("vif=['backend=drivers']", "f:3"),
        ("\ndisk=['backend=drivers,vdev=xvda,target=/a']", "f:4"),
        ('bootloader="/opt/loader"', "f:3"),
        ('kernel="";firmware="pvgrub32"', "f:3"),
    ],
)
def test_what_pyxen_can_not_make_yet(text: str, place: str) -> None:
    settings = parse(BASE + text, "f")
    config, _ = DomainConfig.read(settings)
    with pytest.raises(UnsupportedError) as caught:
        config.require_supported(settings)
    assert str(caught.value).startswith(place + ": ")
    assert "not supported yet" in str(caught.value)


def test_empty_device_lists_are_supported() -> None:
    read("disk=[]\nvif=[]").require_supported()


def test_affinity_of_each_vcpu() -> None:
    config = read('cpus=["1","2-3"]\ncpus_soft="0"\nvcpus=3')
    assert [config.vcpu_affinity(vcpu) for vcpu in range(3)] == ["1", "2-3", "all"]
    assert [config.vcpu_affinity(vcpu, soft=True) for vcpu in range(3)] == ["0", "0", "0"]


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("all", {0, 1, 2, 3}),
        ("0-3,5,^1", {0, 2, 3, 5}),
        ("all,^2", {0, 1, 3}),
        ("none", set()),
        ("nodes:0,^2", {0, 1, 3}),
        ("node:1,7", {7}),
        ("^1,1", {1}),
        ("1, 2", {1, 2}),
    ],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text, frozenset(range(4))) == cpus


@pytest.mark.parametrize(
    "untrusted", [{"name": None}, {"name": {}}, {"memory": 1.5}, {"memory": 1 << 70}, {"disk": [{}]}, {"memory": True, "vcpus": "x"}]
)
def test_mappings_of_other_types_are_refused(untrusted: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DomainConfig.from_mapping({"name": "d", "kernel": "/k"} | untrusted)


@pytest.mark.parametrize(("kind", "warned"), [("pv", False), ("pvh", True)])
def test_more_memory_later_needs_populate_on_demand_for_pvh(kind: str, warned: bool) -> None:
    _, warnings = DomainConfig.read(parse(BASE + f'type="{kind}";memory=64;maxmem=128', "f"))
    assert [warning.place.line for warning in warnings] == ([3] if warned else [])
    assert all("populate-on-demand" in str(warning.text) for warning in warnings)
