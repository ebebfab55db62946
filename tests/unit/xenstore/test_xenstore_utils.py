"""Debian's own xenstore-utils, and the test program that comes with Xen, against the store's socket."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.xenstore.served_socket import ServedSocket


@pytest.fixture(scope="module")
def utils(request: pytest.FixtureRequest) -> Path:
    """The folder with xenstore-ls and the others: ``$PYXEN_XENSTORE_UTILS``, else from the guest packages."""
    override = os.environ.get("PYXEN_XENSTORE_UTILS")
    if override:
        return Path(override)
    return Path(request.getfixturevalue("guest_packages").xenstore_utils)


class Tools:
    def __init__(self, utils: Path, served: ServedSocket) -> None:
        self.utils = utils
        self.served = served
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "XENSTORED_PATH": str(served.path),
            "LD_LIBRARY_PATH": str(utils.parent / "lib" / "x86_64-linux-gnu"),
        }

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.utils / name, *arguments], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, name: str, *arguments: str, status: int = 0) -> str:
        process = self.start(name, *arguments)
        output, errors = process.communicate(timeout=20)
        assert process.returncode == status, (output, errors)
        return output + errors


@pytest.fixture
def tool(utils: Path) -> Iterator[Tools]:
    with ServedSocket() as served:
        yield Tools(utils, served)


def test_write_and_read(tool: Tools) -> None:
    tool("xenstore-write", "/a/b", "hello", "/a/c", "")
    assert tool("xenstore-read", "/a/b") == "hello\n"
    assert tool("xenstore-read", "-p", "/a/b", "/a/c") == "/a/b: hello\n/a/c: \n"
    assert tool.served.in_loop(lambda: tool.served.store.read("/a/b")) == "hello"
    assert "couldn't read path /a/x" in tool("xenstore-read", "/a/x", status=1)
    assert "could not write path /a//x" in tool("xenstore-write", "/a//x", "1", status=1)


def test_relative_paths_are_domain_0s(tool: Tools) -> None:
    tool("xenstore-write", "name", "Domain-0")
    assert tool("xenstore-read", "/local/domain/0/name") == "Domain-0\n"


def test_list_and_exists(tool: Tools) -> None:
    tool("xenstore-write", "/a/b", "1", "/a/c", "2")
    assert tool("xenstore-list", "/a") == "b\nc\n"
    assert tool("xenstore-list", "-p", "/a") == "/a/b\n/a/c\n"
    assert tool("xenstore-list", "/") == "tool\nlocal\nvm\na\n"
    tool("xenstore-exists", "/a/b")
    tool("xenstore-exists", "/a/x", status=1)


def test_rm(tool: Tools) -> None:
    tool("xenstore-write", "/a/b/c", "1")
    tool("xenstore-rm", "/a/b")
    assert tool("xenstore-ls", "/a") == ""
    tool("xenstore-write", "/x/y/z", "1")
    tool("xenstore-rm", "-t", "/x/y/z")
    tool("xenstore-exists", "/x", status=1)


def test_chmod(tool: Tools) -> None:
    tool("xenstore-write", "/a/b", "1")
    tool("xenstore-chmod", "/a/b", "n0", "r5", "b6")
    assert tool("xenstore-ls", "-fp", "/a") == '/a/b = "1"   (n0,r5,b6)\n'
    tool("xenstore-chmod", "-r", "/a", "r0")
    assert tool("xenstore-ls", "-fp", "/a") == '/a/b = "1"   (r0)\n'


def test_ls(tool: Tools) -> None:
    tool("xenstore-write", "/vm/x/name", "guest", "/vm/y", "odd \x01 value")
    whole = tool("xenstore-ls", "-fp")
    assert whole == (
        '/tool = ""   (n0)\n/tool/xenstored = ""   (n0)\n/local = ""   (n0)\n/local/domain = ""   (n0)\n'
        '/vm = ""   (n0)\n/vm/x = ""   (n0)\n/vm/x/name = "guest"   (n0)\n/vm/y = "odd \\001 value"   (n0)\n'
    )
    assert tool("xenstore-ls", "/vm") == 'x = ""\n name = "guest"\ny = "odd \\001 value"\n'


def test_ls_of_more_children_than_fit_into_a_message(tool: Tools) -> None:
    names = [f"child-{index:05}" for index in range(1500)]
    store = tool.served.store

    def populate() -> None:
        for name in names:
            store.write(f"/many/{name}", "")

    tool.served.in_loop(populate)
    assert tool("xenstore-list", "/many").split() == names


def test_watch(tool: Tools) -> None:
    process = tool.start("xenstore-watch", "-n", "4", "/w")
    assert process.stdout is not None
    assert process.stdout.readline() == "/w\n"
    tool("xenstore-write", "/w/a/b", "1")
    assert process.stdout.readline() == "/w/a/b\n"
    tool("xenstore-chmod", "/w/a/b", "r0")
    assert process.stdout.readline() == "/w/a/b\n"
    tool("xenstore-rm", "/w")
    assert process.communicate(timeout=20) == ("/w\n", "")
    assert process.returncode == 0


def test_watch_of_special_events(tool: Tools) -> None:
    process = tool.start("xenstore-watch", "-n", "2", "@introduceDomain")
    assert process.stdout is not None
    assert process.stdout.readline() == "@introduceDomain\n"
    page = memoryview(bytearray(4096))
    tool.served.in_loop(lambda: tool.served.store.introduce_domain(9, page, 1, lambda: None))
    assert process.communicate(timeout=20)[0] == "@introduceDomain\n"


def test_many_tools_at_a_time(tool: Tools) -> None:
    processes = [tool.start("xenstore-write", f"/n/{index}", str(index)) for index in range(12)]
    for process in processes:
        assert process.wait(20) == 0
        process.communicate()
    assert sorted(tool("xenstore-list", "/n").split(), key=int) == [str(index) for index in range(12)]
    assert tool.served.in_loop(tool.served.daemon.operations.tree.inconsistencies) == []


def test_nobody_listens(tool: Tools) -> None:
    tool.environment["XENSTORED_PATH"] = str(tool.served.path) + "-not"
    started = time.monotonic()
    assert "xs_open" in tool("xenstore-read", "/tool", status=1)
    assert time.monotonic() - started < 10


def test_xens_own_test_program(tool: Tools) -> None:
    program = tool.utils.parent / "lib/xen-4.17/bin/test-xenstore"
    if not program.exists():
        pytest.skip("test-xenstore is in the package xen-utils-4.17, which is not unpacked here")
    done = subprocess.run([program, "-i", "20"], env=tool.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    results = re.findall(r"^(\w[\w ]*?) *: *(\S+)", done.stdout, re.MULTILINE)
    assert len(results) >= 12
    assert "failed" not in done.stdout
