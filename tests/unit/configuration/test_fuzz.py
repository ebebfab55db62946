"""Whatever the text is, the only exception is ConfigError, and its message is one line."""

from hypothesis import given
from hypothesis import strategies as st

from pyxen.toolstack.configuration import ConfigError, DomainConfig, parse
from pyxen.toolstack.configuration.domain_config import _ALL_KEYS

PIECES = [
    "=",
    "+=",
    "[",
    "]",
    ",",
    ";",
    "\n",
    " ",
    "#c\n",
    '"x"',
    "'/a,,xvda'",
    '"all,^1"',
    '""',
    "0x1f",
    "010",
    "1",
    '"-3"',
    '"',
    "\\",
    "é",
    "\0",
    "A",
    "0b",
]
keys = st.sampled_from(sorted(_ALL_KEYS) + ["unknown"])
texts = st.lists(st.one_of(keys, st.sampled_from(PIECES), st.text(max_size=4)), max_size=24).map("".join)
atoms = st.one_of(
    st.text(max_size=20).map(lambda text: '"' + text.replace("\\", "").replace('"', "").replace("\n", "") + '"'), st.integers(0).map(str)
)
values = st.recursive(atoms, lambda inner: st.lists(inner, max_size=4).map(lambda items: "[" + ",".join(items) + "]"), max_leaves=6)
files = st.lists(st.tuples(keys, st.sampled_from([" = ", " += "]), values).map("".join), max_size=12).map("\n".join)


def check(text: str) -> None:
    try:
        settings = parse(text, "f")
        config, warnings = DomainConfig.read(settings)
        assert DomainConfig.from_mapping(config.to_mapping())[0] == config
        assert all("\n" not in str(warning) for warning in warnings)
        config.require_supported(settings)
    except ConfigError as error:
        assert str(error).startswith("f")
        assert "\n" not in str(error)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    check(text)


@given(texts)
def test_pieces_of_syntax(text: str) -> None:
    check(text)


@given(files)
def test_any_value_for_any_key(text: str) -> None:
    check('name="d"\nkernel="/k"\n' + text)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.one_of(keys, st.text(max_size=5)), json_values, max_size=8))
def test_any_mapping(mapping: dict[str, object]) -> None:
    try:
        DomainConfig.from_mapping({"name": "d", "kernel": "/k"} | mapping)
    except ConfigError as error:
        assert "\n" not in str(error)
