"""The host process: how it starts, ends, dies and is found again, and what it answers to nonsense."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyxen
from pyxen import ErrorKind, HostError
from pyxen.host.client import connect
from pyxen.host.protocol import MAX_LINE_BYTES, METHODS
from pyxen.host.runtime_directory import RuntimeDirectory
from tests.conftest import own_runtime_directory
from tests.toolstack.tiny_kernels import IDLE, LOOP, write_kernel

pytestmark = pytest.mark.timeout(90)

SMALL = 256


def wait_for_death(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.01)


def left_over(folder: Path) -> list[str]:
    """Sockets and links: what may not be there without a host."""
    entries = [path for path in folder.rglob("*") if path.is_symlink() or path.is_socket()]
    return [str(path) for path in entries]


def test_no_host_and_none_wanted(runtime_directory: Path) -> None:
    with pytest.raises(HostError, match="no host process runs") as refused:
        pyxen.Host(runtime_directory, start=False)
    assert refused.value.kind is ErrorKind.HOST
    assert list(runtime_directory.iterdir()) == []


def test_start_status_stop(runtime_directory: Path, tmp_path: Path) -> None:
    host = pyxen.Host(runtime_directory, memory=SMALL)
    status = host.status
    assert status.memory_bytes == SMALL << 20
    assert status.domains == 0
    assert RuntimeDirectory(runtime_directory).host_pid.read_text() == f"{status.pid}\n"
    assert "NoNewPrivs:\t1" in Path(f"/proc/{status.pid}/status").read_text()
    host.create(kernel=write_kernel(tmp_path, LOOP), memory=32)
    host.create(kernel=write_kernel(tmp_path, IDLE), memory=32, paused=True)
    assert len(left_over(runtime_directory)) == 4
    for path in (runtime_directory, *runtime_directory.rglob("*")):
        if not path.is_symlink():
            assert not path.stat().st_mode & 0o077, f"{path} is open to others"
    host.stop()
    wait_for_death(status.pid)
    assert left_over(runtime_directory) == []
    with pyxen.Host(runtime_directory, memory=SMALL) as again:
        assert again.status.pid != status.pid
        assert again.domains() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly(runtime_directory: Path, tmp_path: Path, number: signal.Signals) -> None:
    with pyxen.Host(runtime_directory, memory=SMALL) as host:
        host.create(kernel=write_kernel(tmp_path, LOOP), memory=32)
        pid = host.status.pid
        os.kill(pid, number)
        wait_for_death(pid)
        assert left_over(runtime_directory) == []
        with pytest.raises(HostError, match="went away"):
            _ = host.status


def test_killed_host_is_replaced(runtime_directory: Path, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, LOOP)
    for _ in range(3):
        with pyxen.Host(runtime_directory, memory=SMALL) as host:
            assert host.domains() == []
            host.create(kernel=kernel, memory=32, name="victim")
            pid = host.status.pid
            os.kill(pid, signal.SIGKILL)
            wait_for_death(pid)
        assert left_over(runtime_directory) != []
    with pyxen.Host(runtime_directory, memory=SMALL) as host:
        assert len(left_over(runtime_directory)) == 2
        host.create(kernel=kernel, memory=32, name="victim")


def test_eight_starts_at_once_make_one_host(runtime_directory: Path) -> None:
    program = f"import pyxen; print(pyxen.Host({str(runtime_directory)!r}, memory={SMALL}).status.pid)"
    clients = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    answers = [client.communicate()[0].strip() for client in clients]
    assert [client.returncode for client in clients] == [0] * 8
    assert len(set(answers)) == 1
    assert answers[0].isdigit()


def test_eight_creations_at_once(runtime_directory: Path, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, IDLE)
    created: list[pyxen.Domain] = []

    def create(number: int) -> None:
        with pyxen.Host(runtime_directory, memory=512) as host:
            created.append(host.create(kernel=kernel, memory=32, name=f"one-of-eight-{number}"))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({domain.domid for domain in created}) == 8
    with pyxen.Host(runtime_directory) as host:
        assert {domain.name for domain in host.domains()} == {f"one-of-eight-{number}" for number in range(8)}


def test_one_name_for_eight_creations_at_once(runtime_directory: Path, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, IDLE)
    outcomes: list[str] = []

    def create() -> None:
        with pyxen.Host(runtime_directory, memory=512) as host:
            try:
                host.create(kernel=kernel, memory=32, name="wanted")
                outcomes.append("created")
            except HostError as error:
                outcomes.append(error.kind)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["created"] + [ErrorKind.EXISTS] * 7


def test_two_folders_do_not_meet(runtime_directory: Path, tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, IDLE)
    with own_runtime_directory() as other, pyxen.Host(runtime_directory, memory=SMALL) as a, pyxen.Host(other, memory=SMALL) as b:
        assert a.status.pid != b.status.pid
        first, second = (host.create(kernel=kernel, memory=32, name="same") for host in (a, b))
        assert first.domid == second.domid == 1
        first.destroy()
        assert second.state is not pyxen.DomainState.DESTROYED
        a.stop()
        assert len(b.domains()) == 1


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pyxen-test-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def test_folder_open_to_others_is_refused(folder: Path) -> None:
    folder.chmod(0o755)
    with pytest.raises(HostError, match="chmod 700"):
        pyxen.Host(folder)
    assert list(folder.iterdir()) == []


def test_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(HostError, match="is not a folder"):
        pyxen.Host(folder / "file")


def test_link_in_place_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "target").mkdir(mode=0o700)
    (folder / "link").symlink_to("target")
    with pytest.raises(HostError, match="is not a folder"):
        pyxen.Host(folder / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give folders away")
def test_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, 12345)
    with pytest.raises(HostError, match="belongs to user 12345"):
        pyxen.Host(folder)


def test_path_too_long_for_a_socket_is_refused(folder: Path) -> None:
    with pytest.raises(HostError, match="too long"):
        pyxen.Host(folder / ("x" * 100))


def test_memory_out_of_range_is_refused(runtime_directory: Path) -> None:
    with pytest.raises(HostError, match="64 MiB"):
        pyxen.Host(runtime_directory, memory=1)
    assert left_over(runtime_directory) == []
    with pyxen.Host(runtime_directory, memory=SMALL) as host:
        assert host.status.memory_bytes == SMALL << 20


def test_second_host_for_a_folder_is_refused(runtime_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyxen.host import process

    monkeypatch.setattr(process, "_PREDECESSOR_TIMEOUT", 0.2)
    with pyxen.Host(runtime_directory, memory=SMALL):
        with pytest.raises(process.HostStartError, match="runs already"):
            process.HostLock(RuntimeDirectory(runtime_directory))


# -- nonsense on the socket ----------------------------------------------------------------------------------------------------


class RawClient:
    """Lines to the control socket and back."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(folder / "host.sock"))
        self._file = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, message: object) -> dict[str, Any]:
        self.send(json.dumps(message).encode() + b"\n")
        return self.answer()

    def answer(self) -> dict[str, Any]:
        answer = json.loads(self._file.readline())
        assert isinstance(answer, dict)
        return answer

    def ended(self) -> bool:
        return self._file.readline() == b""


@pytest.fixture(scope="module")
def shared_host(shared_runtime_directory: Path) -> Iterator[Path]:
    with pyxen.Host(shared_runtime_directory, memory=SMALL):
        yield shared_runtime_directory


def test_every_method_is_served(shared_host: Path) -> None:
    client = RawClient(shared_host)
    for number, name in enumerate(METHODS):
        error = client.ask({"id": number, "method": name, "params": {"nonsense": 1}})["error"]
        assert error["kind"] == "protocol"
        assert "unknown field 'nonsense'" in error["message"]


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b'"text"\n',
        b"{}\n",
        b'{"id": 1}\n',
        b'{"id": "1", "method": "host.status"}\n',
    ]
    + [
        b'{"id": true, "method": "host.status"}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": 1, "method": 5}\n',
        b'{"id": 1, "method": "no.such"}\n',
    ],
)
def test_malformed_requests_are_answered(shared_host: Path, line: bytes) -> None:
    client = RawClient(shared_host)
    client.send(line)
    assert client.answer()["error"]["kind"] == "protocol"
    assert "result" in client.ask({"id": 5, "method": "host.status"})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("domain.info", {}),
        ("domain.info", {"domid": "1"}),
        ("domain.info", {"domid": 1.5}),
        ("domain.info", {"domid": True}),
        ("domain.info", {"domid": None}),
        ("domain.info", []),
        ("domain.info", None),
        ("console.write", {"domid": 1, "data": "not base64!"}),
        ("domain.wait", {"domid": 1, "states": ["sleeping"]}),
        ("domain.wait", {"domid": 1, "states": "paused"}),
        ("domain.create", {"config": [], "paused": False}),
        ("domain.create", {"texts": [{"text": 1, "source": ""}]}),
    ],
)
def test_wrong_parameters_are_refused(shared_host: Path, method: str, params: object) -> None:
    assert RawClient(shared_host).ask({"id": 1, "method": method, "params": params})["error"]["kind"] == "protocol"


@pytest.mark.parametrize("domid", [-1, 5, 0x7FF0, 1 << 40, 10**30])
@pytest.mark.parametrize("method", ["domain.info", "domain.destroy", "domain.pause", "console.attach", "domain.config", "domain.vcpus"])
def test_domains_that_are_not_there(shared_host: Path, method: str, domid: int) -> None:
    error = RawClient(shared_host).ask({"id": 1, "method": method, "params": {"domid": domid}})["error"]
    assert error["kind"] in ("not-found", "invalid")


def test_endless_line_ends_the_connection_only(shared_host: Path) -> None:
    client = RawClient(shared_host)
    with pytest.raises(OSError):
        for _ in range(2 * MAX_LINE_BYTES // 65536 + 64):
            client.send(b"x" * 65536)
    assert "result" in RawClient(shared_host).ask({"id": 1, "method": "host.status"})


def test_requests_run_side_by_side_and_streams_end_on_demand(shared_host: Path) -> None:
    client = RawClient(shared_host)
    client.send(b'{"id": 1, "method": "trace.subscribe", "params": {}}\n')
    assert client.ask({"id": 2, "method": "host.status"})["id"] == 2
    assert client.ask({"id": 1, "method": "host.status"})["error"]["kind"] == "protocol"
    client.send(b'{"cancel": 1}\n{"cancel": 77}\n')
    deadline = time.monotonic() + 5
    while "error" in client.ask({"id": 1, "method": "host.status"}):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_too_many_requests_at_once_are_refused(shared_host: Path) -> None:
    client = RawClient(shared_host)
    for number in range(100):
        client.send(json.dumps({"id": number, "method": "trace.subscribe", "params": {}}).encode() + b"\n")
    assert [client.answer()["error"]["kind"] for _ in range(36)] == ["protocol"] * 36


def test_clients_that_vanish_leave_nothing(shared_host: Path) -> None:
    with connect(shared_host, start=False) as keeper:
        from pyxen.host.protocol import HOST_STATUS, Nothing

        pid = keeper.call(HOST_STATUS, Nothing()).pid
        before = len(os.listdir(f"/proc/{pid}/fd"))
        for _ in range(50):
            client = RawClient(shared_host)
            client.send(b'{"id": 1, "method": "trace.subscribe", "params": {}}\n{"id": 2, "method": "host.st')
            del client
        deadline = time.monotonic() + 10
        while len(os.listdir(f"/proc/{pid}/fd")) > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
