"""What a figure was measured on: machine, versions, settings. No path and no host name is among it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import zmq

from replicator.settings import Settings, table

LIBRARIES = ("blake3", "lmdb", "lz4", "msgspec", "pysyncobj", "pyzmq", "uvloop")
OF_NO_INTEREST = ("NODE", "PEERS", "DATA_DIR", "SECRET_KEY_FILE", "PEER_KEYS_FILE", "LOG_LEVEL")
ROOT = Path(__file__).parent.parent.parent
RENEWED = ("bench/results", "README.md")  # by the measurements themselves


def machine() -> dict[str, str]:
    """Processor, cores, memory, kernel, the disk's file system."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": _file_system(),
    }


def versions(*more: str) -> dict[str, str]:
    """Python, this code, and the libraries that the figures depend on; *more* are further packages."""
    found = {"python": platform.python_version(), "replicator": commit(), "libzmq": zmq.zmq_version()}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def changed_settings(settings: Settings) -> dict[str, str]:
    """Those that are not at their default, but for names, places and addresses."""
    boring = {f"REPLICATOR_{name}" for name in OF_NO_INTEREST}
    return {
        row.name: row.value for row in table(settings) if row.value != row.default and row.name not in boring
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _file_system() -> str:
    import tempfile

    best, kind = "", "unknown"
    place = tempfile.gettempdir()
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, what = line.split()[:3]
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, what
    return kind


def commit() -> str:
    """This code, as git names it: `-dirty` if it is not as committed, whatever was measured before."""
    git = ["git", "-C", str(ROOT)]
    command = [*git, "describe", "--always", "--exclude=*"]
    name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not name:
        return version("replicator")
    others = [".", *(f":!{path}" for path in RENEWED)]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *others], check=False).returncode
    return f"{name}-dirty" if changed else name
