"""What has really left this process by TCP, as the kernel counts it: payload, headers, and all else."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

TCP_INFO_BYTES = 232
BYTES_SENT = struct.Struct("<200xQ")  # of `struct tcp_info`, since Linux 4.19


def wire_bytes() -> int:
    """The bytes that all connections that are open in this process have sent to their peers."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family == socket.AF_INET and copy.type == socket.SOCK_STREAM:
                    info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
                    total += BYTES_SENT.unpack_from(info)[0]
    return total
