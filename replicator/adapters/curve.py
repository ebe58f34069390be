"""Who may talk to us: CURVE keys, the files they live in, and the gate that admits only known ones.

Each node has a key pair; everybody has the list of all public keys. A connection is admitted by libzmq
only after the gate has found its key in the list (ZAP, RFC 27), and every message that comes over it
carries that key, so a peer is who its key says (R28, T16). The gate fails closed: its sockets enforce the
ZAP domain, so nobody is admitted before it runs or after it has ended.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import zmq
from msgspec import Struct
from zmq.utils import z85

from replicator.adapters.loglimit import LogLimit
from replicator.errors import TransportError
from replicator.model import NodeId

log = logging.getLogger(__name__)

KEY_CHARACTERS = 40
FILE_BYTES_MAX = 2**16  # all members' keys and much to say about them
PEER_KEYS_NAME = "peers.keys"
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"


class Keys(Struct, frozen=True):
    """A node's key pair and the allow-list: everybody's public key, its own included. All in Z85."""

    public: str
    secret: str
    allowed: dict[NodeId, str]

    def __repr__(self) -> str:
        return f"Keys(public={self.public!r}, allowed={sorted(self.allowed)})"


def generate_keys(nodes: Iterable[NodeId], directory: Path) -> list[Path]:
    """Write a secret key file for each node and the list of all public keys; return the files' paths.

    Raises TransportError, and leaves no file, if one cannot be written or is there already: keys in use are
    never overwritten.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise TransportError(f"cannot write to {directory}: {error.strerror}") from error
    texts: dict[Path, tuple[str, int]] = {}
    lines: list[str] = []
    for node in nodes:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        lines.append(f"{node}={public}\n")
        text = f"node={node}\npublic={public}\nsecret={secret}\n"
        texts[directory / f"{node}.secret"] = text, 0o600
    texts[directory / PEER_KEYS_NAME] = "".join(lines), 0o644
    for path in filter(os.path.lexists, texts):
        raise TransportError(
            f"{path} is there already, and keys in use are not overwritten: make the keys of all nodes at "
            "once, in another directory"
        )
    with ExitStack() as undo:
        for path, (text, mode) in texts.items():
            _write_new(path, text, mode, undo)
        undo.pop_all()
    return list(texts)


def load_keys(
    secret_key_file: Path | None, peer_keys_file: Path | None, node: NodeId, peers: Collection[NodeId] = ()
) -> Keys | None:
    """The key pair of *node* and everybody's public keys, those of *peers* at least; None without files.

    Raises TransportError, in one line, for files that cannot be read, a secret that others could read,
    keys that are no keys or do not belong together, and peers without a key.
    """
    if secret_key_file is None and peer_keys_file is None:
        return None
    if secret_key_file is None or peer_keys_file is None:
        raise TransportError("REPLICATOR_SECRET_KEY_FILE and REPLICATOR_PEER_KEYS_FILE go together")
    own = _read(secret_key_file, private=True)
    listed = _read(peer_keys_file, private=False)
    if own.get("node") != node:
        raise TransportError(f"{secret_key_file} is the key of {own.get('node')!r}, not of {node!r}")
    secret = own.get("secret", "")
    if not _is_key(secret) or zmq.curve_public(secret.encode()).decode() != own.get("public"):
        raise TransportError(f"{secret_key_file} holds no pair of keys; make it with `replicator keygen`")
    if listed.get(node) != own["public"]:
        raise TransportError(f"{peer_keys_file} has another public key for {node!r} than {secret_key_file}")
    for name, key in listed.items():
        if not _is_key(key):
            raise TransportError(f"{peer_keys_file} has no public key for {name!r} but {key!r}")
    if missing := sorted(set(peers) - listed.keys()):
        raise TransportError(f"{peer_keys_file} has no public key for {', '.join(missing)}")
    if len(set(listed.values())) != len(listed):
        raise TransportError(f"{peer_keys_file} has one public key for two nodes")
    return Keys(own["public"], secret, {NodeId(name): key for name, key in listed.items()})


class Gate:
    """Answers libzmq's question, on a thread of its own, whether a key may connect."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], domain: str, allowed: Mapping[NodeId, str]):
        self._domain = domain.encode()
        self._allowed = {z85.decode(key): key.encode() for key in allowed.values()}
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ZAP_ENDPOINT)
        self.refused = 0
        self._log_limit = LogLimit()  # for all addresses together: anybody can make up many
        self._thread = threading.Thread(target=self._run, name="replicator-gate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Admit nobody any longer; connections that stand are not touched."""
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        os.close(self._bell)

    def _run(self) -> None:
        with self._socket:
            poller = zmq.Poller()
            poller.register(self._bell, zmq.POLLIN)
            poller.register(self._socket, zmq.POLLIN)
            while self._bell not in dict(poller.poll()):
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """Frames of a question: version, request, domain, address, routing id, mechanism, key."""
        request = question[1] if len(question) > 1 else b""
        user = None
        if len(question) == 7 and question[0] == _ZAP_VERSION and question[5] == b"CURVE":
            user = self._allowed.get(question[6]) if question[2] == self._domain else None
        if user is not None:
            return [_ZAP_VERSION, request, b"200", b"OK", user, b""]
        self.refused += 1
        if self._log_limit.permits(time.monotonic()):
            address = question[3].decode(errors="replace") if len(question) > 3 else "?"
            log.warning("connection refused address=%s reason='unknown key' count=%d", address, self.refused)
        return [_ZAP_VERSION, request, b"400", b"unknown key", b"", b""]


def _is_key(text: str) -> bool:
    try:
        return len(text) == KEY_CHARACTERS and len(z85.decode(text.encode())) == KEY_CHARACTERS * 4 // 5
    except (ValueError, KeyError, struct.error):  # no ASCII, no Z85, or more than its bytes can hold
        return False


def _write_new(path: Path, text: str, mode: int, undo: ExitStack) -> None:
    """Write a file that is not there yet; *undo* removes it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        undo.callback(path.unlink)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise TransportError(f"cannot write {path}: {error.strerror}") from error


def _read(path: Path, *, private: bool) -> dict[str, str]:
    """The ``name=value`` lines of a file; a *private* one may be readable by its owner only."""
    try:
        with path.open(encoding="ascii") as file:
            if private and os.fstat(file.fileno()).st_mode & 0o077:
                raise TransportError(f"{path} can be read by others; do: chmod 600 {path}")
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise ValueError("larger than the keys of all members can be")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a key file"
        raise TransportError(f"cannot read {path}: {reason}") from error
    lines = map(str.strip, text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}
