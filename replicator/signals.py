"""The signals that ask a program to end, for whatever ends in order."""

from __future__ import annotations

import signal
from typing import NoReturn


def ending_signals() -> tuple[signal.Signals, ...]:
    """Ctrl-C, a service manager's SIGTERM, and the terminal's end, unless that is ignored (`nohup`)."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def ignore_ending_signals() -> None:
    """From now on nobody's impatience interrupts the tidying."""
    for each in ending_signals():
        signal.signal(each, signal.SIG_IGN)


def interrupt(*_: object) -> NoReturn:
    """A signal's handler: end as Ctrl-C does, and be told once: a closing terminal says so twice."""
    ignore_ending_signals()
    raise KeyboardInterrupt


def interrupt_each_time(*_: object) -> NoReturn:
    """The same, but whoever is impatient may press Ctrl-C again; the terminal's second word is no such."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt
