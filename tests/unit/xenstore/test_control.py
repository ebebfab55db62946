from __future__ import annotations

import logging

import pytest

from pyxen.abi.io import xs_wire
from pyxen.xenstore import control
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.store import Store
from tests.unit.xenstore.simulated_guest import World


def run(world: World, *arguments: str) -> str:
    return control.execute(world.daemon, arguments)


def test_help_names_every_command(world: World) -> None:
    assert [line.split("\t")[0] for line in run(world, "help").splitlines()] == list(control.COMMANDS)


def test_check(world: World, store: Store) -> None:
    store.write("/a/b", "1")
    assert run(world, "check") == "OK"
    world.daemon.operations.tree.root.names_size += 1
    assert "size of the children's names is wrong" in run(world, "check")


def test_print(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pyxen.xenstore"):
        assert run(world, "print", "hello") == "OK"
    assert "control: hello" in caplog.text


def test_log_traces_requests(world: World, caplog: pytest.LogCaptureFixture) -> None:
    guest = world.guest(1)
    with caplog.at_level(logging.INFO, "pyxen.xenstore.trace"):
        guest.read("/a")
        assert "READ" not in caplog.text
        assert run(world, "log", "on") == "OK"
        guest.read("/a")
        assert "domain 1: READ b'/a\\x00' -> b'EACCES\\x00'" in caplog.text
        assert run(world, "log", "off") == "OK"
        caplog.clear()
        guest.read("/a")
        assert caplog.text == ""


def test_quota(world: World, store: Store) -> None:
    lines = dict(line.split(":") for line in run(world, "quota").splitlines())
    assert {name.strip(): int(value) for name, value in lines.items()} == {
        "nodes": 1000,
        "watches": 128,
        "transactions": 10,
        "node-size": 2048,
        "node-permissions": 5,
        "transaction-nodes": 1024,
        "outstanding": 20,
        "path-max": 2048,
        "memory": 2621440,
        "request-rate": 5000,
    }
    assert run(world, "quota", "set", "watches", "1") == "OK"
    guest = world.guest(1)
    store.mkdir("/local/domain/1", perms=["n1"])
    assert guest.do(xs_wire.XS_WATCH, "a", "T") == "OK"
    assert guest.do(xs_wire.XS_WATCH, "b", "T") == "E2BIG"
    guest.write("a", "value")
    guest.start()
    report = run(world, "quota", "1")
    figures = {name.strip(): int(value) for name, value in (line.split(":") for line in report.splitlines()[1:])}
    usage = world.daemon.operations.tree.usage_of(1)
    assert figures == {
        "nodes": 2,
        "watches": 1,
        "transactions": 1,
        "outstanding": 0,
        "memory": usage.memory + len("/local/domain/1/a" + "T"),
    }


def test_memreport(world: World, store: Store) -> None:
    world.guest(1)
    store.write("/a", "1", perms=["n1"])
    report = run(world, "memreport")
    assert "domain 1" in report
    assert f"{world.daemon.operations.tree.usage_of(1).memory} bytes" in report


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["log"],
        ["log", "perhaps"],
        ["check", "x"],
        ["print"],
        ["quota", "x"],
        ["quota", "set"],
        ["quota", "set", "x", "1"],
        ["quota", "set", "nodes", "-1"],
        ["quota", "99"],
        ["live-update", "-s"],
        ["logfile", "/tmp/x"],
    ],
)
def test_what_is_not_understood_is_refused(world: World, arguments: list[str]) -> None:
    with pytest.raises(StoreError):
        control.execute(world.daemon, arguments)
