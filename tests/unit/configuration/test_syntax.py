"""The grammar. Accepted and refused texts were compared with libxlu 4.17."""

import pytest

from pyxen.toolstack.configuration.errors import ConfigError
from pyxen.toolstack.configuration.syntax import MAX_LENGTH, Atom, ListValue, Settings, Value, parse


def plain(value: Value | None) -> object:
    if isinstance(value, ListValue):
        return [plain(item) for item in value.items]
    return value.text if isinstance(value, Atom) else None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('a="x"', "x"),
        ("a='x\"y'\n", 'x"y'),
        (";;b=1;;a=2;", "2"),
        ("\n\n\ta = 0x10 # c\n", "0x10"),
        ("a=1\na=2", "2"),
        ('a="x";a=["y"]', ["y"]),
        ('a="x#y"#z', "x#y"),
        ("a=[]", []),
        ('a=["x",1,[2,"y"],]', ["x", "1", ["2", "y"]]),
        ('a=[\n1,\n#foo\n"2"\n]\n', ["1", "2"]),
        ('a+=["1"]\na+=["2","3"]', ["1", "2", "3"]),
        ('a="x"\na+="y"', "xy"),
        ('a="\\a\\t\\\\\\\'\\"\\n"', "\a\t\\'\"\n"),
        ('a="\\x41\\102C"', "ABC"),
        ("a='é'", "é"),
        ("a.b=3", None),
        ("", None),
    ],
)
def test_accepted(text: str, value: object) -> None:
    assert plain(parse(text, "f").value("a")) == value


@pytest.mark.parametrize(
    ("text", "line", "near"),
    [
        ("a=x\n", 1, "`x'"),
        ("\n\na=-1", 3, "-1"),
        ("a=1k", 1, "`k'"),
        ('a=["x" "y"]', 1, '`"y"\''),
        ('b=1\na="abc\nc=1', 2, '"abc'),
        ("a=1 b=2", 1, "`b'"),
        ("a=\nb=1", 1, "the end of the line"),
        ("a=[1,\n2", 2, "the end of the file"),
        ("1a=3", 1, "`1a'"),
        ("A=3", 1, "A=3"),
        ("a=True", 1, "True"),
        ("a=[1,,2]", 1, "`,'"),
        ("a=[,1]", 1, "`,'"),
        ('a=["x";"y"]', 1, "`;'"),
        ('a="x",', 1, "`,'"),
        ('a="x\\\ny"', 1, '"x'),
        ("import os", 1, "`os'"),
        ('a="\\z"', 1, "unknown escape"),
        ('a="\\x00"', 1, "not an ASCII"),
        ("a=1\r\n", 1, "carriage return"),
        ("a\0=1", 1, "\\x00"),
        ("a=1\nb=2 @", 2, "@"),
        ('a=["x"]\na+="y"', 2, "list to a string"),
        ('a="x"\na+=["y"]', 2, "list to a string"),
        ("a=1\na+=2", 2, "not with numbers"),
        ("a=" + "[" * 40, 1, "nested"),
        ("a=[\n\n1 2]", 3, "began in line 1"),
    ],
)
def test_refused_with_its_line(text: str, line: int, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "file.cfg")
    message = str(caught.value)
    assert message.startswith(f"file.cfg:{line}: ")
    assert near in message
    assert "\n" not in message


def test_command_line_overrides_and_appends() -> None:
    settings = parse('name="x"\nextra="a"\nmemory=1\n', "file")
    parse('memory=2;extra+=" b"', "command line", settings)
    assert plain(settings.value("memory")) == "2"
    assert plain(settings.value("extra")) == "a b"
    assert str(settings.place("memory")) == "command line:1"
    assert str(settings.place("name")) == "file:1"
    assert str(settings.place("absent")) == "file"


def test_place_of_a_list_value_is_the_line_of_its_key() -> None:
    settings = parse("\na = [\n1,\n2 ]\nb=1", "f")
    assert (settings.place("a").line, settings.place("b").line) == (2, 5)
    assert isinstance(settings, Settings)


def test_a_text_that_is_too_long() -> None:
    with pytest.raises(ConfigError, match="^f: this is no configuration file"):
        parse("#" * (MAX_LENGTH + 1), "f")
