"""The lease words: one page of memory, two readers of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from replicator.link.lease import PAGE_BYTES, SLOTS, LeaseWords


def test_both_sides_see_the_same_words() -> None:
    """What is written through one mapping is read through the other; 0 at first."""
    words = LeaseWords.create()
    other = LeaseWords.attach(os.dup(words.fd))
    slot, seen = words.slot(3), other.slot(3)
    assert seen.deadline_ns == 0
    slot.deadline_ns = 2**62
    assert seen.deadline_ns == 2**62 == seen.word[0] * 1e9
    assert words.slot(2).deadline_ns == words.slot(4).deadline_ns == 0
    first, last = words.slot(0), words.slot(SLOTS - 1)
    first.deadline_ns = last.deadline_ns = 2**62
    words.clear()
    assert first.deadline_ns == seen.deadline_ns == last.deadline_ns == 0
    words.close()
    words.close()
    assert seen.deadline_ns == 0  # the memory outlives the descriptors
    other.close()


def test_slots_are_used_in_turn() -> None:
    """A tenure's number may be any; each word is 8 bytes, and all fit on the page."""
    words = LeaseWords.create()
    words.slot(SLOTS + 5).deadline_ns = 7
    assert words.slot(5).deadline_ns == 7
    assert os.fstat(words.fd).st_size == PAGE_BYTES == SLOTS * 8
    words.close()


def test_a_child_process_writes_them() -> None:
    """Through the descriptor that it was given, and only if it was given."""
    words = LeaseWords.create()
    assert not os.get_inheritable(words.fd)
    code = (
        "import sys; from replicator.link.lease import LeaseWords;"
        "LeaseWords.attach(int(sys.argv[1])).slot(1).deadline_ns = 99"
    )
    command = [sys.executable, "-c", code, str(words.fd)]
    subprocess.run(command, pass_fds=(words.fd,), check=True)
    assert words.slot(1).deadline_ns == 99
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0
    words.close()


def test_what_is_no_page_is_refused() -> None:
    """A descriptor of something else raises, instead of lending a lease."""
    reader, writer = os.pipe()
    with pytest.raises((OSError, ValueError)):
        LeaseWords.attach(reader)
    os.close(reader)
    os.close(writer)
