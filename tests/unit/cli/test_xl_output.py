"""What the listing commands print, compared with the output of xl 4.17 for the same data."""

from __future__ import annotations

import json
import os
import re

import pytest

from pyxen.cli.xl import main
from pyxen.cli.xl_commands.listing import domain_table, duration
from pyxen.cli.xl_commands.memory import parse_memory
from tests.unit.cli.recorded_host import LINUX_UUID, WIN_UUID, RecordedHost, detail

Capture = pytest.CaptureFixture[str]

LIST = """\
Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0   750     4     r-----   11794.3
win                                          1  1019     1     -b----       0.2
linux                                        2  2048     2     ---sc-    5624.2
"""


def output(capsys: Capture, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_list(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert output(capsys, "list") == LIST


def test_list_of_some(recorded_host: RecordedHost, capsys: Capture) -> None:
    lines = LIST.splitlines(keepends=True)
    assert output(capsys, "list", "linux", "0") == lines[0] + lines[3] + lines[1]


def test_list_verbose(recorded_host: RecordedHost, capsys: Capture) -> None:
    lines = output(capsys, "list", "-v").splitlines()
    assert lines[0] == LIST.splitlines()[0] + "   UUID                            Reason-Code\tSecurity Label"
    assert lines[2] == LIST.splitlines()[2] + f" {WIN_UUID}        -                -"
    assert lines[3] == LIST.splitlines()[3] + f" {LINUX_UUID}        3                -"


def test_list_context_and_cpupool(recorded_host: RecordedHost, capsys: Capture) -> None:
    lines = output(capsys, "list", "-Z", "--cpupool").splitlines()
    assert lines[0] == LIST.splitlines()[0] + "   Security Label         Cpupool"
    assert lines[2] == LIST.splitlines()[2] + "                -          Pool-0"


@pytest.mark.parametrize(
    ("reason", "letter"),
    [("", "-"), ("poweroff", "-"), ("reboot", "r"), ("suspend", "s"), ("crash", "c"), ("watchdog", "w"), ("soft-reset", "S")],
)
def test_fifth_letter_is_the_reason(reason: str, letter: str) -> None:
    row = domain_table([detail(3, "d", WIN_UUID, "---s--", shutdown_reason=reason)]).splitlines()[1]
    assert f"     ---s{letter}-  " in row


def test_long_names_push_the_columns_as_in_xl() -> None:
    row = domain_table([detail(12345, "n" * 45, WIN_UUID, "--p---")]).splitlines()[1]
    assert row == "n" * 45 + " 12345  1019     1     --p---       0.2"


def test_list_long(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert json.loads(output(capsys, "list", "-l", "win")) == [{"domid": 1, "config": {"c_info": {"type": "pv"}}}]


def test_vm_list(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert output(capsys, "vm-list") == (
        "UUID                                  ID    name\n"
        f"{WIN_UUID}  1    win                           \n"
        f"{LINUX_UUID}  2    linux                         \n"
    )


def test_vcpu_list(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert output(capsys, "vcpu-list") == (
        "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)\n"
        "Domain-0                             0     0    0   r--   11794.3  all / all\n"
        "linux                                2     0    3   -b-      12.0  all / 2-3\n"
        "linux                                2     1    -   --p       0.0  0-1,3 / none\n"
    )
    assert len(output(capsys, "vcpu-list", "linux").splitlines()) == 3


def test_uptime(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert output(capsys, "uptime", "win") == (
        "Name                                ID Uptime\nwin                                  1 1 day,  1:01:01\n"
    )
    assert re.fullmatch(r" \d\d:\d\d:\d\d up 1 day,  1:01, win \(1\)\n", output(capsys, "uptime", "-s", "1"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, " 0:00:00"), (3661, " 1:01:01"), (86399.9, "23:59:59"), (90061, "1 day,  1:01:01"), (200000, "2 days,  7:33:20")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_domid_and_domname(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert output(capsys, "domid", "linux") == "2\n"
    assert output(capsys, "domname", "2") == "linux\n"
    assert main(["domid", "nobody"]) == 1
    assert main(["domname", "99"]) == 1
    assert main(["domname", "x"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Can't get domid of domain name 'nobody', maybe this domain does not exist.",
        "Can't get domain name of domain id '99', maybe this domain does not exist.",
        "Invalid domain id.",
    ]


def test_info(recorded_host: RecordedHost, capsys: Capture) -> None:
    lines = output(capsys, "info").splitlines()
    assert all(re.match(r"[a-z_0-9]{4,20} +: ", line) and line[22:25] in (" : ", ": ") or line[23] == ":" for line in lines)
    assert f"host                   : {os.uname().nodename}" in lines
    assert "cpu_mhz                : 2266.746" in lines
    assert "hw_caps                : bfebfbff:00000001:00000002:00000003:00000004:00000005:00000006:00000007" in lines
    assert "total_memory           : 6141" in lines
    assert "free_memory            : 4274" in lines
    assert "xen_version            : 4.17.7" in lines
    assert "platform_params        : virt_start=0xffff800000000000" in lines
    assert lines[-1] == "xend_config_format     : 4"
    assert output(capsys, "info", "xen_minor") == "17\n"


def test_info_with_topology(recorded_host: RecordedHost, capsys: Capture) -> None:
    text = output(capsys, "info", "-n")
    assert "cpu:    core    socket     node\n  0:       0        0        0\n" in text
    assert "node:    memsize    memfree    distances\n   0:      6141       4274      10\n" in text


def test_dmesg(recorded_host: RecordedHost, capsys: Capture) -> None:
    assert output(capsys, "dmesg", "-c") == "(XEN) one\n(XEN) two\n"


@pytest.mark.parametrize(
    ("text", "kib"), [("512", 512 << 10), ("512m", 512 << 10), ("2G", 2 << 20), ("1t", 1 << 30), ("4096k", 4096), ("1048576b", 1024)]
)
def test_memory_sizes(text: str, kib: int) -> None:
    assert parse_memory(text) == kib
