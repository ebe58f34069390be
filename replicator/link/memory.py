"""Memory of the engine that its worker reads where it lies, by process_vm_readv(2).

A checkpoint then costs the engine's process nothing: no thread of its own copies the payload into a socket.
Reading needs what a debugger needs. A child of the same user has that, unless the Yama module asks for the
parent's word, which `admit_reader` gives, or a sandbox forbids the call: who wants to read has to try.
"""

from __future__ import annotations

import ctypes
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PR_SET_PTRACER = 0x59616D61


class _PyBuffer(ctypes.Structure):
    """`Py_buffer`, of which only the start is looked at (part of the stable ABI since Python 3.11)."""

    _fields_ = (("start", ctypes.c_void_p), ("rest", ctypes.c_byte * 128))


class _Span(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("start", ctypes.c_void_p), ("size_bytes", ctypes.c_size_t))


_pointer_to, _number_in = ctypes.c_char_p, ctypes.c_size_t.from_buffer
_byte_of, _addressof = ctypes.c_char.from_buffer, ctypes.addressof
_libc = ctypes.CDLL(None, use_errno=True)
_libc_holding = ctypes.PyDLL(None)  # its calls keep the interpreter's lock: only for what never waits
_send, _receive = _libc_holding.send, _libc_holding.recv
_send.argtypes = _receive.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = _receive.restype = ctypes.c_ssize_t
ring_holding = _libc_holding.eventfd_write  # adds to an eventfd, which never waits
ring_holding.argtypes = (ctypes.c_int, ctypes.c_uint64)
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.c_void_p,)
_release_buffer.restype = None


def address_of(part: Buffer) -> int:
    """Where a C-contiguous buffer that is not empty lies. Holds as long as somebody keeps a view of it."""
    if type(part) is bytes:  # these two are what payloads mostly are, and need no call of a foreign function
        return _number_in(_pointer_to(part)).value
    if not memoryview(part).readonly:
        return _addressof(_byte_of(part))
    found = _PyBuffer()
    place = ctypes.addressof(found)
    _get_buffer(part, place, 0)
    _release_buffer(place)
    return int(found.start or 0)


def send_holding(fd: int, datagram: bytes) -> bool:
    """Send a datagram, as `receive_holding` receives one; whether it has gone."""
    sent: int = _send(fd, datagram, len(datagram), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
    return sent >= 0


def receive_holding(fd: int, into: ctypes.Array[ctypes.c_char]) -> int:
    """Receive a datagram without giving up the interpreter's lock; its size, or below 0 if there is none.

    A thread that gives up the lock and takes it again disturbs the one that works in between twice.
    """
    size: int = _receive(fd, into, len(into), socket.MSG_DONTWAIT)
    return size


def admit_reader(pid: int) -> None:
    """Let the child process *pid* read this process's memory, where Yama would forbid it."""
    _libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)


class EngineMemory:
    """The memory of the process that has started this one. Raises OSError if it cannot be read.

    Which program runs there by now is not known: whoever reads has to look for something that he knows.
    """

    def __init__(self, engine_pid: int) -> None:
        self._pid = engine_pid
        self._own, self._its = _Span(), _Span()

    def read(self, address: int, into: Buffer) -> None:
        """Fill *into* with what lies at *address*; releases the interpreter's lock while it copies."""
        own, its, done = self._own, self._its, 0
        start, size_bytes = address_of(into), memoryview(into).nbytes
        while done < size_bytes:
            own.start, own.size_bytes = start + done, size_bytes - done
            its.start, its.size_bytes = address + done, size_bytes - done
            count = _libc.process_vm_readv(self._pid, ctypes.byref(own), 1, ctypes.byref(its), 1, 0)
            if count <= 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            done += count
        if os.getppid() != self._pid:  # what had that number may have been another process already
            raise ProcessLookupError("the engine is gone")
