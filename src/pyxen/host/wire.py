"""Dataclasses to JSON and back: the encoding of the control protocol.

Decoding is strict: a missing field without a default, an unknown field or a value of another type is a ``WireError`` that names the
field. Bytes travel as base64 text, enumerations as their values, tuples and frozensets as lists.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import functools
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")

JsonObject = dict[str, Any]


class WireError(ValueError):
    """The other side sent something that is not what the protocol says."""


def encode(value: Any) -> Any:
    """A JSON-able form of a dataclass instance or of a plain value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in field_types(type(value))}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(encode(item) for item in value)
    return value


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """Field name -> resolved annotation of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def decode(kind: type[T], untrusted_value: Any, where: str = "value") -> T:
    """An instance of ``kind`` from decoded JSON. Raises ``WireError`` naming the field at fault."""
    return typing.cast(T, _decode(kind, untrusted_value, where))


def _decode(kind: Any, untrusted: Any, where: str) -> Any:
    if kind is Any:
        return untrusted
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), untrusted, where)
    if origin is not None:
        return _decode_collection(origin, typing.get_args(kind), untrusted, where)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), untrusted, where)
    return _decode_scalar(kind, untrusted, where)


def _decode_union(alternatives: tuple[Any, ...], untrusted: Any, where: str) -> Any:
    if untrusted is None and type(None) in alternatives:
        return None
    reasons = []
    for alternative in alternatives:
        if alternative is type(None):
            continue
        try:
            return _decode(alternative, untrusted, where)
        except WireError as error:
            reasons.append(str(error))
    raise WireError(reasons[0] if reasons else f"{where}: must be null")


def _decode_collection(origin: Any, arguments: tuple[Any, ...], untrusted: Any, where: str) -> Any:
    if origin is dict:
        if not isinstance(untrusted, dict):
            raise WireError(f"{where}: an object is needed, not {type(untrusted).__name__}")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in untrusted.items()}
    if not isinstance(untrusted, list):
        raise WireError(f"{where}: a list is needed, not {type(untrusted).__name__}")
    items = (_decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(untrusted))
    if origin is list:
        return list(items)
    if origin is frozenset:
        return frozenset(items)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return tuple(items)
    raise TypeError(f"{where}: the protocol does not carry {origin}")


def _decode_dataclass(kind: type, untrusted: Any, where: str) -> Any:
    if not isinstance(untrusted, dict):
        raise WireError(f"{where}: an object is needed, not {type(untrusted).__name__}")
    known = field_types(kind)
    unknown = sorted(set(untrusted) - set(known))
    if unknown:
        raise WireError(f"{where}: unknown field {unknown[0]!r}")
    values = {name: _decode(known[name], item, f"{where}.{name}") for name, item in untrusted.items()}
    for field in dataclasses.fields(kind):
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in values and not optional:
            raise WireError(f"{where}: field {field.name!r} is missing")
    return kind(**values)


def _decode_scalar(kind: Any, untrusted: Any, where: str) -> Any:
    if kind is bytes:
        return _decode_bytes(untrusted, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(untrusted)
        except ValueError:
            raise WireError(f"{where}: {untrusted!r} is not a {kind.__name__}") from None
    if kind is float and type(untrusted) is int:
        return float(untrusted)
    if type(untrusted) is not kind:  # not isinstance: True is no number here
        raise WireError(f"{where}: {kind.__name__} is needed, not {type(untrusted).__name__}")
    return untrusted


def _decode_bytes(untrusted: Any, where: str) -> bytes:
    if not isinstance(untrusted, str):
        raise WireError(f"{where}: base64 text is needed, not {type(untrusted).__name__}")
    try:
        return base64.b64decode(untrusted, validate=True)
    except (binascii.Error, ValueError):
        raise WireError(f"{where}: not base64") from None
