"""Programs beside the host: real ones, started by the real spawner."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pyxen.backends.helper_program import HelperError, HelperMissingError, stop
from pyxen.host.helper_programs import HostHelperPrograms

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def _helpers(*programs: str) -> AsyncIterator[HostHelperPrograms]:
    helpers = HostHelperPrograms(programs)
    helpers.serve()
    try:
        yield helpers
    finally:
        await helpers.close()


def _in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


def _alive(pid: int) -> bool:
    """Running, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


@_in_a_loop
async def test_a_program_talks_through_the_descriptors_it_was_given() -> None:
    ours, theirs = socket.socketpair()
    async with _helpers("sh") as helpers:
        with ours, theirs:
            program = await helpers.start(
                "sh", ["-c", "read line <&3; echo got $line >&3; ls /proc/self/fd"], owner="t", descriptors=[theirs.fileno()]
            )
            theirs.close()
            ours.sendall(b"words\n")
            assert await program.wait() == 0
            assert ours.recv(100) == b"got words\n"
            assert ours.recv(100) == b""


@_in_a_loop
async def test_nothing_but_what_it_was_given_is_open_in_a_program(tmp_path: Path) -> None:
    async with _helpers("sh") as helpers:
        with open(tmp_path / "secret", "w") as secret:
            os.set_inheritable(secret.fileno(), True)
            program = await helpers.start(
                "sh", ["-c", "for n in $(seq 0 200); do [ -e /proc/$$/fd/$n ] && open=$open,$n; done; echo $open >&2"], owner="t"
            )
            await program.wait()
    assert program.last_words == ",0,1,2"


@_in_a_loop
async def test_exit_status_and_last_words_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told: list[int] = []
    async with _helpers("sh") as helpers:
        program = await helpers.start("sh", ["-c", "echo one >&2; printf two >&2; exit 3"], owner="vif-1-0", exited=told.append)
        assert await program.wait() == 3
        killed = await helpers.start("sh", ["-c", "kill -9 $$"], owner="vif-1-0", exited=told.append)
        assert await killed.wait() == -9
    assert told == [3, -9]
    assert program.last_words == "two"
    assert "vif-1-0 (sh): one" in caplog.text


@_in_a_loop
async def test_only_listed_programs_are_started() -> None:
    async with _helpers("true") as helpers:
        with pytest.raises(HelperMissingError):
            await helpers.start("sh", [], owner="t")
        with pytest.raises(HelperMissingError):
            await helpers.start("/bin/true", [], owner="t")
        assert await (await helpers.start("true", [], owner="t")).wait() == 0


@_in_a_loop
async def test_a_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYXEN_CACHE_DIR", str(tmp_path))
    async with _helpers("passt") as helpers:
        with pytest.raises(HelperMissingError, match="^passt not found: install the package passt"):
            await helpers.start("passt", [], owner="t")


@_in_a_loop
async def test_a_program_without_its_libraries_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one has it that was unpacked alone. The loader's own words."""
    (tmp_path / "gone.c").write_text("int gone(void) { return 0; }")
    (tmp_path / "passt.c").write_text("int gone(void); int main(void) { return gone(); }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libgone.so", "gone.c"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", "-o", "passt", "passt.c", "-L.", "-lgone"], cwd=tmp_path, check=True)
    (tmp_path / "libgone.so").unlink()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    async with _helpers("passt") as helpers:
        program = await helpers.start("passt", [], owner="test")
        assert await program.wait() == 127
        assert "error while loading shared libraries: libgone.so" in program.last_words
        assert program.last_words.endswith("; install the package passt with all that it depends on: apt install passt")


@_in_a_loop
async def test_stop_asks_first_and_kills_what_does_not_listen() -> None:
    async with _helpers("sh") as helpers:
        polite = await helpers.start("sh", ["-c", "trap 'exit 5' TERM; echo ready >&2; while :; do sleep 0.05; done"], owner="t")
        deaf = await helpers.start("sh", ["-c", "trap '' TERM; echo ready >&2; while :; do sleep 0.05; done"], owner="t")
        while not (polite.last_words and deaf.last_words):
            await asyncio.sleep(0.02)
        await asyncio.gather(stop(polite), stop(deaf, 0.3))
        assert (polite.status, deaf.status) == (5, -9)


@_in_a_loop
async def test_what_a_program_started_goes_with_it() -> None:
    async with _helpers("sh") as helpers:
        program = await helpers.start("sh", ["-c", "sleep 1000 2>&- & echo $! >&2; kill -9 $$"], owner="t")
        await program.wait()
        assert _wait_until(lambda: not _alive(int(program.last_words)))


@_in_a_loop
async def test_close_leaves_no_program() -> None:
    async with _helpers("sleep") as helpers:
        programs = [await helpers.start("sleep", ["1000"], owner="t") for _ in range(3)]
        pids = [program.pid for program in programs] + [helpers.spawner_pid]
        assert all(_alive(pid) for pid in pids)
    assert not any(_alive(pid) for pid in pids)
    assert all(program.status is not None for program in programs)


@_in_a_loop
async def test_close_in_the_middle_of_a_start() -> None:
    """A program that has just been forked is not yet the leader of its group."""
    for _ in range(20):
        helpers = HostHelperPrograms(("sleep",))
        helpers.serve()
        starts = [asyncio.ensure_future(helpers.start("sleep", ["1000"], owner="test")) for _ in range(3)]
        await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait_for(helpers.close(), 20)
        await asyncio.gather(*starts, return_exceptions=True)


@_in_a_loop
async def test_when_the_spawner_is_killed_all_programs_have_ended() -> None:
    told: list[int] = []
    async with _helpers("sleep") as helpers:
        program = await helpers.start("sleep", ["1000"], owner="t", exited=told.append)
        os.kill(helpers.spawner_pid, signal.SIGKILL)
        assert await program.wait() == -9
        assert told == [-9]
        assert _wait_until(lambda: not _alive(program.pid))
        with pytest.raises(HelperError, match="restart the host"):
            await helpers.start("sleep", ["1"], owner="t")


def test_kill_9_of_the_host_leaves_no_program() -> None:
    code = """
    import asyncio
    from pyxen.host.confinement import confine
    from pyxen.host.helper_programs import HostHelperPrograms

    async def main():
        helpers = HostHelperPrograms(("sleep", "unshare"))
        helpers.serve()
        assert confine()
        program = await helpers.start("sleep", ["1000"], owner="t")
        free = await helpers.start("unshare", ["--user", "true"], owner="t")
        print(program.pid, helpers.spawner_pid, await free.wait(), flush=True)
        await asyncio.sleep(1000)

    asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        program, spawner, unshared = (int(word) for word in host.stdout.readline().split())
        assert unshared == 0  # which the host itself may not
        assert _alive(program)
        host.kill()
    assert _wait_until(lambda: not _alive(program) and not _alive(spawner))
