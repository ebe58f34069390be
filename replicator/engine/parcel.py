"""The parcel: a submitted checkpoint, checked and made ready for the link, its bytes still where they were.

All checks of what a caller hands in are here. They cost the same for 1 KB and for 1 GB: a payload is
looked at through the buffer protocol, never read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from replicator.errors import PayloadTooLarge
from replicator.model import CHUNKS_MAX, META_BYTES_MAX, NAME_BYTES_MAX, PARTS_MAX, NodeId, StreamName

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Payload = Buffer | Mapping[str, Buffer]

View = bytes | memoryview

_REFERENCES = re.compile("[O&PXz]|Z(?![fdg])")  # of Python's and C's; Zd and the like are complex numbers
_PLAIN = (bytes, bytearray, memoryview)  # asked for first: whether it is a Mapping takes longer


class Parcel(Struct, frozen=True):
    """A payload's parts by name, its meta, and its size. A plain payload is one part named ''."""

    parts: dict[str, View]
    meta: bytes
    is_mapping: bool
    size_bytes: int


def pack(payload: Payload, meta: Buffer, copy: bool, bytes_max: int) -> Parcel:
    """Check a payload and its meta; raises TypeError, ValueError or `PayloadTooLarge`.

    *payload* is any C-contiguous buffer, or a mapping of part name (at most 255 bytes) to such buffers.
    """
    meta_bytes = meta if type(meta) is bytes else _bytes(meta)
    if len(meta_bytes) > META_BYTES_MAX:
        raise ValueError(f"meta has {len(meta_bytes)} bytes; at most {META_BYTES_MAX} are allowed")
    if isinstance(payload, _PLAIN) or not isinstance(payload, Mapping):
        view = memoryview(payload) if type(payload) is bytearray else _view(payload, "the payload")
        is_mapping, parts, size_bytes = False, {"": view}, len(view)
    else:
        if len(payload) > PARTS_MAX:
            raise ValueError(f"the payload has {len(payload)} parts; at most {PARTS_MAX} are allowed")
        is_mapping = True
        parts = {_part_name(name): _view(part, f"part {name!r}") for name, part in payload.items()}
        size_bytes = sum(map(len, parts.values()))
    if size_bytes > bytes_max:
        raise PayloadTooLarge(
            f"the payload has {size_bytes} bytes, REPLICATOR_PAYLOAD_BYTES_MAX is {bytes_max}: not taken"
        )
    if copy:
        parts = {name: bytes(part) for name, part in parts.items()}
    return Parcel(parts, meta_bytes, is_mapping, size_bytes)


def check_chunks(parcel: Parcel, chunk_bytes: int) -> None:
    """Raise `PayloadTooLarge` if the parts are more chunks than a manifest has room for: of one part the
    bound on the bytes sees to it, but each of many begins a chunk of its own."""
    if parcel.size_bytes // chunk_bytes + len(parcel.parts) <= CHUNKS_MAX:
        return  # whatever the parts' lengths
    count = sum(-(-len(part) // chunk_bytes) for part in parcel.parts.values())
    if count > CHUNKS_MAX:
        raise PayloadTooLarge(
            f"the payload's parts make {count} chunks of {chunk_bytes} bytes, {CHUNKS_MAX} are allowed: not "
            "taken; give fewer parts, or the stream larger chunks with REPLICATOR_STREAM_CHUNK_BYTES"
        )


def stream_name(name: str) -> StreamName:
    """*name* as the name of a stream: 1 to 255 bytes of UTF-8 without NUL; raises TypeError, ValueError."""
    return StreamName(_name(name, "a stream's name"))


def node_name(name: str) -> NodeId:
    """*name* as the name of a node: 1 to 255 bytes of UTF-8 without NUL; raises TypeError, ValueError."""
    return NodeId(_name(name, "a node's name"))


def _name(name: str, what: str) -> str:
    text = _exact(name, what)
    if not 1 <= len(text.encode()) <= NAME_BYTES_MAX or "\0" in text:
        raise ValueError(f"{what} has 1 to {NAME_BYTES_MAX} bytes of UTF-8 and no NUL: {text[:40]!r}")
    return text


def _part_name(name: str) -> str:
    text = _exact(name, "a part's name")
    if len(text.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"a part's name has at most {NAME_BYTES_MAX} bytes of UTF-8: {text[:40]!r}")
    return text


def _exact(name: str, what: str) -> str:
    """The text of a str, or of what is derived from it, which an encoder need not know."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is a str, not {type(name).__name__}")
    return str.__str__(name)


def _bytes(meta: Buffer) -> bytes:
    try:
        return bytes(memoryview(meta))  # not of itself: a number would be as many zero bytes
    except TypeError:
        raise TypeError(f"meta must be bytes-like, not {type(meta).__name__}") from None


def _view(part: Buffer, what: str) -> View:
    if type(part) is bytes or type(part) is bytearray:
        return part if type(part) is bytes else memoryview(part)
    try:
        view = memoryview(part)
    except TypeError:
        raise TypeError(
            f"{what} must be bytes-like (or the payload a mapping of them), not {type(part).__name__}"
        ) from None
    if not view.c_contiguous:
        raise ValueError(f"{what} is not C-contiguous; give a contiguous copy of it")
    if _REFERENCES.search("".join(view.format.split(":")[::2])):  # names are between colons
        raise TypeError(f"{what} holds references, not what they lead to; serialise that first")
    return view.cast("B") if view.nbytes else b""
