"""Sizes in bytes as people write them: ``256KiB``, and by stream: ``orders=16KiB,sensor-*=1MiB``."""

from __future__ import annotations

from collections.abc import Mapping

KIB, MIB, GIB = 2**10, 2**20, 2**30

_DIGITS_MAX = 18  # far above any size, and far below what `int` refuses in words of its own
_UNITS = {"KiB": KIB, "MiB": MIB, "GiB": GIB}


def parse_size(text: str) -> str:
    """The size as digits alone; what is none stays as it is."""
    number, unit = text[:-3].strip(), text[-3:]
    is_size = unit in _UNITS and number.isdecimal() and len(number) <= _DIGITS_MAX
    return str(int(number) * _UNITS[unit]) if is_size else text


def parse_stream_sizes(text: str) -> dict[str, str]:
    """Sizes by stream or pattern, each as of `parse_size`; raises ValueError if it is no such list."""
    sizes: dict[str, str] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        stream, is_there, size = item.rpartition("=")
        if not is_there or not stream.strip():
            raise ValueError(f"{item!r} is not stream=size")
        if stream.strip() in sizes:
            raise ValueError(f"{stream.strip()!r} has two sizes")
        sizes[stream.strip()] = parse_size(size.strip())
    return sizes


def format_stream_sizes(sizes: Mapping[str, int]) -> str:
    """What `parse_stream_sizes` reads."""
    return ",".join(f"{stream}={size}" for stream, size in sizes.items())
