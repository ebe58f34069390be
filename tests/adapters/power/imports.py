"""Functions that a loaded extension imports from the C library, replaced by Python ones for a while.

LMDB writes and syncs inside its extension, where nothing in Python sees it. But each call into the C library
goes through a slot of the extension's own table of addresses, which may be written over: no compiler, no
tracer, no second process. The relocations in the ELF file say which slot belongs to which name.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

_SECTIONS_AT, _SECTION_SIZES_AT = 0x28, 0x3A
_SECTION = struct.Struct("<IIQQQQIIQQ")
_RELOCATION = struct.Struct("<QQq")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATIONS, _DYNAMIC_SYMBOLS = 4, 11


@cache
def slots(library: Path, names: frozenset[str]) -> dict[str, list[int]]:
    """Where, relative to its start, a 64-bit ELF file keeps the addresses of what it imports as *names*."""
    elf = library.read_bytes()
    assert elf[:6] == b"\x7fELF\x02\x01", f"{library} is no 64-bit little-endian ELF file"
    (start,) = struct.unpack_from("<Q", elf, _SECTIONS_AT)
    size, count = struct.unpack_from("<HH", elf, _SECTION_SIZES_AT)
    sections = [_SECTION.unpack_from(elf, start + number * size) for number in range(count)]
    found: dict[str, list[int]] = {}
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind != _RELOCATIONS or sections[link][1] != _DYNAMIC_SYMBOLS:
            continue
        symbols, strings = sections[link][4], sections[sections[link][6]][4]
        for place, info, _ in _RELOCATION.iter_unpack(elf[offset : offset + length]):
            name_at, _, _, section, _, _ = _SYMBOL.unpack_from(elf, symbols + (info >> 32) * _SYMBOL.size)
            name = elf[strings + name_at : elf.index(0, strings + name_at)].decode()
            if name in names and not section:
                found.setdefault(name, []).append(place)
    return found


@contextmanager
def replaced(library: Path, replacements: Mapping[str, ctypes._FuncPointer]) -> Iterator[None]:
    """While it lasts, *library* calls the replacements; names that it does not import are left out."""
    base = _base(library)
    found = slots(library, frozenset(replacements))
    before = []
    try:
        for name, places in found.items():
            address = ctypes.cast(replacements[name], ctypes.c_void_p).value
            for place in places:
                slot = _writable(base + place)
                before.append((slot, slot.value))
                slot.value = address
        yield
    finally:
        for slot, address in before:
            slot.value = address


def function(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], ctypes._FuncPointer]:
    """Make a Python function callable from C, with errno as the C library's own call left it."""
    return ctypes.CFUNCTYPE(result, *arguments, use_errno=True)


def _base(library: Path) -> int:
    """Where a loaded library starts in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, offset, _, _, *path = line.split(maxsplit=5)
        if path == [str(library)] and int(offset, 16) == 0:
            return int(addresses.partition("-")[0], 16)
    raise AssertionError(f"{library} is not loaded")


def _writable(address: int) -> ctypes.c_void_p:
    """The pointer at *address*; its page may have been made read-only after the library was loaded."""
    page = address // mmap.PAGESIZE * mmap.PAGESIZE
    done = LIBC.mprotect(
        ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE
    )
    assert done == 0
    return ctypes.c_void_p.from_address(address)
