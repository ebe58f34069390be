"""Copies and canonical images of live objects: what makes a search through states of the real core cheap.

`copy` is a deep copy that shares everything frozen and binds copied methods to their copied owners. `image`
turns the same objects into plain lists that msgspec encodes to the same bytes for equal states: attributes
by name, maps and sets in sorted order, an object met again as its number. A new attribute of the core is
part of both without a word here; only what is listed in `IGNORED` is not.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import msgspec
from msgspec import Struct, structs

from replicator.core.config import Config
from replicator.core.report import Report

encode = msgspec.msgpack.Encoder(order="deterministic").encode

# Left over from an epoch that has ended, and looked at by nobody before it is set anew.
IGNORED = {"Primary": ("_commits", "_heartbeats")}

_SHARED = (int, float, str, bytes, type(None), Enum, FunctionType, BuiltinFunctionType, frozenset)


def copy(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy of *value*, sharing what cannot change."""
    kind = type(value)
    if kind is dict:
        return {key: copy(each, memo) for key, each in value.items()}
    if kind is tuple:
        return tuple([copy(each, memo) for each in value])
    if kind in (list, set, deque):
        return kind([copy(each, memo) for each in value])
    if isinstance(value, _SHARED):
        return value
    if isinstance(value, Struct):
        if kind.__struct_config__.frozen:
            return value
        return structs.replace(
            value, **{name: copy(getattr(value, name), memo) for name in kind.__struct_fields__}
        )
    known = memo.get(id(value))
    if known is not None:
        return known
    if kind is MethodType:
        return MethodType(value.__func__, copy(value.__self__, memo))
    other = memo[id(value)] = kind.__new__(kind)  # type: ignore[call-overload]
    # Methods first lead to their owners: an owner is in the memo before its attributes are looked at.
    other.__dict__.update({name: copy(each, memo) for name, each in value.__dict__.items()})
    return other


def image(value: Any, memo: dict[int, int]) -> Any:
    """*value* as plain data, the same for equal states."""
    kind = type(value)
    if kind is dict:
        return sorted(([key, image(each, memo)] for key, each in value.items()), key=_encoded_key)
    if kind in (tuple, list, deque):
        return [image(each, memo) for each in value]
    if isinstance(value, Struct):
        if kind is Config:
            return None
        if kind is Report or not kind.__struct_config__.frozen:
            return [image(getattr(value, name), memo) for name in kind.__struct_fields__]
        return value
    if kind in (set, frozenset):
        return sorted((image(each, memo) for each in value), key=encode)
    if kind in (MethodType, FunctionType, BuiltinFunctionType):
        return None
    if isinstance(value, _SHARED):
        return value
    known = memo.get(id(value))
    if known is not None:
        return {"seen": known}
    memo[id(value)] = len(memo)
    ignored = IGNORED.get(kind.__name__, ()) if getattr(value, "reign", True) is None else ()
    return [image(value.__dict__[name], memo) for name in sorted(value.__dict__) if name not in ignored]


def _encoded_key(pair: list[Any]) -> bytes:
    return encode(pair[0])
