"""``pyxen stats``, ``xl top`` and the metrics, of guests that spin and sleep."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import pyxen
from pyxen.host import metrics
from pyxen.host.client import connect
from tests.toolstack.tiny_kernels import IDLE, LOOP, write_kernel
from tests.toolstack.xl_command import exit_status, run, spawn, xl

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def host(runtime_directory: Path, tmp_path: Path) -> Iterator[pyxen.Host]:
    """Two physical CPUs, a guest that spins, and one that sleeps."""
    with pyxen.Host(runtime_directory, memory=512, cpus=2) as host:
        host.create(name="spin", kernel=write_kernel(tmp_path, LOOP, "loop"), memory=32)
        host.create(name="sleep", kernel=write_kernel(tmp_path, IDLE, "idle"), memory=32)
        yield host


def figures() -> tuple[dict[str, dict[str, object]], float]:
    """Of each domain by its name, and when that was."""
    result = run("pyxen", "stats", "--json")
    assert result.returncode == 0, result.stderr
    statistics = json.loads(result.stdout)
    return {domain["name"]: domain for domain in statistics["domains"]}, statistics["time_s"]


def test_json(host: pyxen.Host) -> None:
    before, started = figures()
    time.sleep(1.0)
    after, ended = figures()
    elapsed = ended - started
    assert list(after) == ["Domain-0", "spin", "sleep"]
    spin, sleep = after["spin"], after["sleep"]
    assert spin["memory_kib"] == 32 << 10 and spin["disks"] == spin["networks"] == []
    assert 0.8 * elapsed <= spin["cpu_time_s"] - before["spin"]["cpu_time_s"] <= 1.05 * elapsed + 0.1  # type: ignore[operator]
    assert sleep["cpu_time_s"] - before["sleep"]["cpu_time_s"] < 0.1  # type: ignore[operator]
    vcpu = spin["vcpus"][0]  # type: ignore[index]
    age = sum(vcpu[f"{state}_s"] for state in ("running", "runnable", "blocked", "offline"))
    assert age >= elapsed and vcpu["running_s"] == pytest.approx(spin["cpu_time_s"], abs=0.5)


def test_batch_mode(host: pyxen.Host) -> None:
    lines = xl("top", "-b", "-i", "2", "-d", "1", "-v").splitlines()
    header, *rows = lines[len(lines) // 2 :]
    assert (
        header.split()
        == (
            "NAME STATE CPU(sec) CPU(%) MEM(k) MEM(%) MAXMEM(k) MAXMEM(%) VCPUS NETS NETTX(k) NETRX(k) VBDS VBD_OO VBD_RD VBD_WR "
            "VBD_RSECT VBD_WSECT SSID"
        ).split()
    )
    shown = {row.split()[0]: row.split() for row in rows}
    assert shown["spin"][1] == "-----r" and float(shown["spin"][3]) > 60 and shown["spin"][4] == "32768"
    assert shown["sleep"][1] == "--b---" and float(shown["sleep"][3]) < 20
    assert sum(row.startswith("VCPUs(sec):") for row in rows) == 3
    for arguments in (("-d", "soon"), ("-i", "0")):
        result = run("xl", "top", "-b", *arguments)
        assert result.returncode == 1 and "must be a number" in result.stderr


def test_live_screen(host: pyxen.Host) -> None:
    screen = spawn("xl", "top")
    screen.expect("3 domains:.*spin.*sleep")
    screen.send("v")
    screen.expect(r"VCPUs\(sec\):")
    screen.send("q")
    assert exit_status(screen) == 0


def test_metrics(runtime_directory: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with connect(runtime_directory, memory_bytes=512 << 20, metrics=f"127.0.0.1:{port}"):
        with pyxen.Host(runtime_directory) as host:
            host.create(name="spin", kernel=write_kernel(tmp_path, LOOP), memory=32)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
            domains = {sample.labels["domain"]: sample.value for sample in families["pyxen_domain_memory_bytes"].samples}
            assert domains["spin"] == 32 << 20
            states = {sample.labels["state"] for sample in families["pyxen_vcpu_state_seconds"].samples}
            assert states == {"running", "runnable", "blocked", "offline"}
            host.stop()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


@pytest.mark.parametrize("text", ["", "9100", ":9100", "localhost:", "localhost:0", "localhost:99999", "localhost:x"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        metrics.parse_address(text)
    assert metrics.parse_address("[::1]:9100") == ("::1", 9100)
