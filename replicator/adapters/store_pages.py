"""LMDB's file: whether one that ends before its last page number has lost anything, and whether it can grow
(R21).

LMDB numbers pages before it writes them, and never writes one that the same transaction gave back: a healthy
file may be shorter than its page count says, as long as all that is missing is free. The list of free pages
is read from the file itself: the newer meta page names the root of a B-tree from transaction to page numbers.
Layout: 16 bytes of page header (number u64, pad, flags, lower, upper u16), node offsets u16, nodes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import BinaryIO

DATA_NAME = "data.mdb"
NO_ROOM = (ENOSPC, EDQUOT, EFBIG)  # the errors that say so, of a file that grows
FREE_ROOT_OFFSET, LAST_OFFSET, TXN_OFFSET = 16 + 24 + 40, 16 + 24 + 96, 16 + 24 + 104
MAGIC, FORMAT = 0xBEEFC0DE, 1
HEADER = struct.Struct("<QHHHH")
NODE = struct.Struct("<HHHH")
BRANCH, LEAF, BIG_DATA = 0x01, 0x02, 0x01
NO_PAGE = 2**64 - 1
DEPTH_MAX = 32


def lacks_used_pages(file: BinaryIO, page_bytes: int) -> bool:
    """Whether a page that is not free lies beyond the end of *file*, or the list of the free ones does."""
    file_pages = file.seek(0, 2) // page_bytes
    try:
        metas = [_read(file, number * page_bytes, page_bytes) for number in (0, 1)]
        known = [m for m in metas if struct.unpack_from("<II", m, 16) == (MAGIC, FORMAT)]
        if not known:
            return True
        meta = max(known, key=lambda m: _u64(m, TXN_OFFSET))
        missing = set(range(file_pages, _u64(meta, LAST_OFFSET) + 1))
        if missing:
            missing -= set(_free(file, page_bytes, _u64(meta, FREE_ROOT_OFFSET), 0))
    except (EOFError, struct.error):
        return True
    return bool(missing)


def can_grow(path: Path, needed_bytes: int) -> bool:
    """Whether the file may take so much more: a quota, or a limit of the process, is seen in no other way. It
    is left as it is."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        try:
            os.posix_fallocate(file, size, needed_bytes)
        except OSError as error:
            return error.errno not in NO_ROOM
        finally:
            os.ftruncate(file, size)
    finally:
        os.close(file)
    return True


def _free(file: BinaryIO, page_bytes: int, number: int, depth: int) -> Iterator[int]:
    """The page numbers in the tree below page *number*."""
    if number == NO_PAGE or depth > DEPTH_MAX:
        return
    page = _read(file, number * page_bytes, page_bytes)
    _, _, flags, lower, _ = HEADER.unpack_from(page)
    for place in range(HEADER.size, lower, 2):
        (offset,) = struct.unpack_from("<H", page, place)
        low, high, more, key_bytes = NODE.unpack_from(page, offset)
        if flags & BRANCH:
            yield from _free(file, page_bytes, low | high << 16 | more << 32, depth + 1)
        elif flags & LEAF:
            at, size = offset + NODE.size + key_bytes, low | high << 16
            data = page[at : at + size]
            if more & BIG_DATA:
                data = _read(file, _u64(page, at) * page_bytes + HEADER.size, size)
            yield from struct.unpack_from(f"<{_u64(data, 0)}Q", data, 8)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"{size} bytes at {offset} are not there")
    return data


def _u64(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<Q", data, offset)[0])
