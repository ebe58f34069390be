"""The small environment: identity, promise, member record and session, each write synced.

It is apart from payload so that a promise waits for one small transaction only, and so that it is
durable whatever `REPLICATOR_DURABILITY` says (R2, R13). Its file is given spare pages when it is made:
LMDB recycles them, so promises have room when the disk is full (R21).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from replicator.adapters.store_record import (
    FORMAT_VERSION,
    Durability,
    Identity,
    Membership,
    Session,
    lmdb_errors,
    load,
    open_environment,
    seal,
)
from replicator.core.effects import WritePromise, WriteRecord
from replicator.core.events import Event, PromiseWritten, RecordWritten
from replicator.errors import StoreError
from replicator.model import Incarnation, NodeId, Promise

MAP_BYTES = 4 * 2**20
BALLAST_BYTES = 2**18

FORMAT_KEY = b"format"
IDENTITY_KEY = b"identity"
PROMISE_KEY = b"promise"
MEMBERSHIP_KEY = b"membership"
SESSION_KEY = b"session"
COUNTER_KEY = b"counter"
RESET_KEY = b"reset"
EPOCH_KEY = b"epoch"
LENT_KEY = b"lent"
_BALLAST_KEY = b"ballast"


def boot_id() -> str:
    """What the kernel names its present run: another one means that memory is gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Meta:
    """The environment and what it holds, in memory."""

    def __init__(self, path: Path, lease_max_s: float = 0.0, *, readonly: bool = False) -> None:
        """Open the environment; raises `StoreError`, for another format as well, and `StoreDamaged`.

        This process may lend the lease for *lease_max_s* seconds at most.
        """
        self._path, self._lease_max_s = path, lease_max_s
        self._environment = open_environment(path, MAP_BYTES, readonly=readonly)
        try:
            self.read()
        except BaseException:
            self.close()
            raise

    def read(self) -> None:
        """Take into memory what the disk holds now."""
        with lmdb_errors(self._path), self._environment.begin() as txn:
            version = load(int, txn, FORMAT_KEY) or 0
            if version not in (0, FORMAT_VERSION):
                raise StoreError(
                    f"store {self._path.parent} has format {version}, this program has {FORMAT_VERSION}; "
                    "use the program that made it"
                )
            self.identity = load(Identity, txn, IDENTITY_KEY)
            self.promise = load(Promise, txn, PROMISE_KEY)
            self.membership = load(Membership, txn, MEMBERSHIP_KEY)
            self.session = load(Session, txn, SESSION_KEY)
            self.counter = load(int, txn, COUNTER_KEY) or 0
            self.is_resetting = load(bool, txn, RESET_KEY) or False
            self.epoch_seen = load(int, txn, EPOCH_KEY) or 0
            self.lent_max_s = load(float, txn, LENT_KEY) or 0.0

    @property
    def promised(self) -> int:
        """The promised epoch; -1 before the first promise, so that nothing is accepted without one."""
        return -1 if self.promise is None else self.promise.epoch

    def check(self, cluster: str, node: NodeId) -> None:
        """Raise `StoreError` if the store belongs to another cluster or node."""
        if (mine := self.identity) is not None and (mine.cluster, mine.node) != (cluster, node):
            raise StoreError(
                f"store {self._path.parent} belongs to node {mine.node!r} of cluster {mine.cluster!r}, "
                f"not to {node!r} of {cluster!r}; choose another REPLICATOR_DATA_DIR"
            )

    def is_amnesiac(self, boot: str) -> bool:
        """Whether payload that was never synced went with the machine's memory (R13, R20)."""
        last = self.session
        return last is not None and last.durability == "memory" and not last.clean and last.boot_id != boot

    def reset(self) -> None:
        """Forget everything, and remember that the payload has to be wiped, should we die before.

        How high epochs had come stays known: where all machines went down, no other store would know it, and
        a sink that has heard of an epoch refuses every lower one.
        """
        with lmdb_errors(self._path), self._environment.begin(write=True) as txn:
            txn.put(EPOCH_KEY, seal(EPOCH_KEY, max(self.promised, self.epoch_seen)))
            for key in (IDENTITY_KEY, PROMISE_KEY, MEMBERSHIP_KEY, SESSION_KEY, COUNTER_KEY):
                txn.delete(key)
            txn.put(RESET_KEY, seal(RESET_KEY, True))
        self.read()

    def found(self, cluster: str, node: NodeId, incarnation: Incarnation) -> None:
        """Make the identity of a new store; from here on its payload must be there."""
        with lmdb_errors(self._path):
            with self._environment.begin(write=True) as txn:
                txn.put(_BALLAST_KEY, bytes(BALLAST_BYTES))
            with self._environment.begin(write=True) as txn:
                txn.delete(_BALLAST_KEY)
                txn.delete(RESET_KEY)
                txn.put(FORMAT_KEY, seal(FORMAT_KEY, FORMAT_VERSION))
                txn.put(IDENTITY_KEY, seal(IDENTITY_KEY, Identity(cluster, node, incarnation)))
        self.read()

    def write_session(self, boot: str, durability: Durability, *, clean: bool) -> None:
        """Note how the store is open, or that it was closed in order; and for how long at most the promise's
        owner may have been lent the lease, by this process or by earlier ones under other settings (R24)."""
        self.session = Session(boot, durability, clean)
        self.lent_max_s = max(self._lease_max_s, self.lent_max_s)
        with lmdb_errors(self._path), self._environment.begin(write=True) as txn:
            txn.put(SESSION_KEY, seal(SESSION_KEY, self.session))
            txn.put(LENT_KEY, seal(LENT_KEY, self.lent_max_s))

    def write(self, effects: Iterable[WritePromise | WriteRecord], counter_base: int) -> list[Event]:
        """Make promises and records durable in one transaction; return their completions.

        *counter_base* is the payload's share in the counter. A promise that would fall is our bug (I1).
        """
        promise, membership, counter, lent_s = self.promise, self.membership, self.counter, self.lent_max_s
        events: list[Event] = []
        for effect in effects:
            counter += 1
            if isinstance(effect, WritePromise):
                asked = effect.promise
                assert promise is None or asked == promise or asked.epoch > promise.epoch, (asked, promise)
                if promise is None or asked.owner != promise.owner:  # what the one before was lent has passed
                    lent_s = self._lease_max_s
                promise = asked
                events.append(PromiseWritten(asked, counter_base + counter))
            else:
                membership = Membership(effect.record, effect.epoch, effect.founded)
                events.append(
                    RecordWritten(effect.record, effect.epoch, effect.founded, counter_base + counter)
                )
        with lmdb_errors(self._path):
            self._environment.reader_check()  # one that died while it read would hold pages for ever
        with lmdb_errors(self._path), self._environment.begin(write=True) as txn:
            if promise is not None:
                txn.put(PROMISE_KEY, seal(PROMISE_KEY, promise))
            if membership is not None:
                txn.put(MEMBERSHIP_KEY, seal(MEMBERSHIP_KEY, membership))
            txn.put(COUNTER_KEY, seal(COUNTER_KEY, counter))
            txn.put(LENT_KEY, seal(LENT_KEY, lent_s))
        self.promise, self.membership, self.counter, self.lent_max_s = promise, membership, counter, lent_s
        return events

    def close(self) -> None:
        self._environment.close()
