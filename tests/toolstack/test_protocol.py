"""The control protocol's encoding, and its table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.host import protocol as p
from pyxen.host import trace_decoding, wire
from pyxen.toolstack.domain_record import LifeState
from pyxen.toolstack.errors import Fault


def test_every_type_of_the_protocol_survives_the_wire() -> None:
    kinds = {kind for method in p.METHODS.values() for kind in vars(method).values() if isinstance(kind, type)}
    assert len(kinds) > 30
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        survives(kind)


def test_every_name_of_the_package_is_in_its_module() -> None:
    names = dir(p)
    assert {"METHODS", "HostError", "DOMAIN_CREATE"} <= set(names)
    for name in names:
        assert getattr(p, name) is not None
    with pytest.raises(AttributeError):
        p.NOTHING_OF_THE_KIND  # noqa: B018


def test_all_methods_are_in_the_table() -> None:
    methods = [getattr(p, name) for name in dir(p) if isinstance(getattr(p, name), p.Method | p.StreamMethod)]
    assert sorted(method.name for method in methods) == sorted(p.METHODS) and len(methods) > 50


def values_of(kind: type) -> st.SearchStrategy[object]:
    """Any instance; what may hold anything holds text and numbers."""
    anything = st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.lists(st.text())))
    hints = wire.field_types(kind)
    return st.builds(kind, **{name: anything if hint == dict[str, Any] else st.from_type(hint) for name, hint in hints.items()})


def survives(kind: type) -> None:
    @settings(max_examples=15)
    @given(values_of(kind))
    def check(value: object) -> None:
        travelled = json.loads(json.dumps(wire.encode(value)))
        # encoded again, because a number that is none is not equal to itself
        assert json.dumps(wire.encode(wire.decode(kind, travelled))) == json.dumps(wire.encode(value))

    check()


@dataclass(frozen=True)
class Sample:
    number: int
    text: str = ""
    data: bytes = b""
    maybe: int | None = None
    state: p.DomainState = p.DomainState.RUNNING
    numbers: list[int] = field(default_factory=list)
    pairs: tuple[int, ...] = ()
    cpus: frozenset[int] = frozenset()
    rate: float = 0.0


def test_sample_of_every_kind_of_field() -> None:
    sample = Sample(1, "é\n", b"\x00\xff", 5, p.DomainState.CRASHED, [1, 2], (3,), frozenset({4, 5}), 1.5)
    assert wire.decode(Sample, json.loads(json.dumps(wire.encode(sample)))) == sample
    assert wire.decode(Sample, {"number": 1, "rate": 2}) == Sample(1, rate=2.0)


@pytest.mark.parametrize(
    ("untrusted", "said"),
    [
        (None, "object"),
        ([], "object"),
        ({}, "'number' is missing"),
        ({"number": True}, "value.number: int is needed, not bool"),
        ({"number": 1.0}, "value.number"),
        ({"number": "1"}, "value.number"),
        ({"number": 1, "other": 2}, "'other'"),
        ({"number": 1, "text": 5}, "value.text"),
        ({"number": 1, "data": "=!"}, "base64"),
        ({"number": 1, "data": 5}, "base64"),
        ({"number": 1, "maybe": "x"}, "value.maybe"),
        ({"number": 1, "state": "asleep"}, "DomainState"),
        ({"number": 1, "state": []}, "DomainState"),
        ({"number": 1, "numbers": [1, "2"]}, r"value.numbers\[1\]"),
        ({"number": 1, "numbers": {}}, "list"),
        ({"number": 1, "rate": "fast"}, "value.rate"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(untrusted: object, said: str) -> None:
    with pytest.raises(wire.WireError, match=said):
        wire.decode(Sample, untrusted)


def test_faults_and_states_have_the_names_of_the_protocol() -> None:
    assert {fault.value for fault in Fault} <= {kind.value for kind in p.ErrorKind}
    assert {state.value for state in LifeState} == {state.value for state in p.DomainState}


def test_every_method_has_one_name() -> None:
    constants = [value for value in vars(p).values() if isinstance(value, p.Method | p.StreamMethod)]
    assert len(constants) == len(p.METHODS)
    for method in constants:
        assert all(one.name for one in fields(method.parameters))


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("sched_op", (2, 0x1000), {"cmd": "SCHEDOP_shutdown", "arg": 0x1000}),
        ("event_channel_op", (4, 0xFFFFC90000000000), {"cmd": "EVTCHNOP_send", "arg": "0xffffc90000000000"}),
        ("memory_op", (6 | 5 << 6, 1), {"cmd": "XENMEM_populate_physmap", "arg": 1}),
        ("vcpu_op", (77, 0, 0), {"cmd": 77, "vcpuid": 0, "arg": 0}),
        ("grant_table_op", (2, 0, 1), {"cmd": "GNTTABOP_setup_table", "uop": 0, "count": 1}),
        ("xen_version", (0, 0), {"cmd": "XENVER_version", "arg": 0}),
        ("hypercall 63", (1, 2), {"a1": 1, "a2": 2}),
        ("iret", (), {}),
    ],
)
def test_hypercalls_are_decoded(name: str, values: tuple[int, ...], expected: dict[str, object]) -> None:
    assert trace_decoding.arguments(name, values) == expected


@pytest.mark.parametrize(
    ("result", "name", "signed"),
    [(None, "", None), (0, "", 0), (5, "", 5), (-22, "-EINVAL", -22), ((1 << 64) - 38, "-ENOSYS", -38), (-4000, "-4000", -4000)],
)
def test_results_are_decoded(result: int | None, name: str, signed: int | None) -> None:
    assert trace_decoding.result_name(result) == name
    assert trace_decoding.signed_result(result) == signed
