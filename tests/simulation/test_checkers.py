"""Every checker can fail: a doctored history breaks one invariant, and the checker of that one says so."""

from __future__ import annotations

import importlib
from random import Random

import pytest
from msgspec import structs

from replicator.core.effects import (
    Accept,
    Commit,
    Effect,
    Fetch,
    ForgetTombstone,
    MarkCommitted,
    Publish,
    Send,
    SetLease,
    StartTenure,
    WritePromise,
    WriteRecord,
)
from replicator.core.events import Accepted
from replicator.core.messages import Ack, Acked, Echo, Promised
from replicator.core.replica import Replica
from replicator.core.state import head_of
from replicator.model import (
    Epoch,
    Generation,
    Manifest,
    Member,
    MemberRecord,
    NodeId,
    Owner,
    Process,
    Promise,
    Sequence,
    StreamName,
)
from tests.simulation.checkers import Violation, all_checkers
from tests.simulation.checkers.bounds import QUEUED_MAX
from tests.simulation.checkers.liveness import Liveness
from tests.simulation.data import Fetcher, build_manifest, cut_chunks
from tests.simulation.elector import Mood
from tests.simulation.faults import Faults
from tests.simulation.history import Committed, Tenure
from tests.simulation.image import Retained
from tests.simulation.node import Node
from tests.simulation.world import World, draw_plan

S = StreamName("s0")


class Doctored:
    """Three nodes that nobody has started, and whatever a test makes them do and have."""

    def __init__(self) -> None:
        plan = structs.replace(draw_plan(Random(0)), node_count=3, engine_chance=1.0)
        self.world = World(1, plan, Replica)
        self.history = self.world.history
        self.a, self.b, self.c = self.world.nodes.values()
        members = tuple(Member(n.name, n.disk.image.incarnation) for n in self.world.nodes.values())
        self.record = MemberRecord(1, members)
        for node in self.world.nodes.values():
            node.disk.image.record, node.disk.image.founded = self.record, True

    def submit(self, epoch: int, sequence: int, *, tombstone: bool = False) -> Manifest:
        """A checkpoint that a publishes."""
        handle = self.world.next_handle()
        place = (S, Generation(1), Epoch(epoch), Sequence(sequence))
        content = self.history.create(handle, S, place[2], place[3], None, b"", tombstone=tombstone)
        pieces = [] if tombstone else cut_chunks(self.history.payloads[content])
        manifest = build_manifest(Publish(handle, *place, tombstone=tombstone), pieces)
        self.world.published(self.a, manifest, content)
        return manifest

    def hold(self, node: Node, manifest: Manifest, epoch: int) -> None:
        """It is on the disk, whole."""
        image = node.disk.image
        image.streams[S] = (Retained(manifest, Epoch(epoch)),)
        for digest, piece in cut_chunks(self.history.payloads[self.history.content_of(manifest)]):
            image.chunks[digest] = piece

    def do(self, node: Node, effect: Effect) -> None:
        """A core asks for that effect; the checkers look on."""
        for look in self.world.looks[type(effect)]:
            look(node, effect)

    def note(self, node: Node, manifest: Manifest) -> None:
        """The node finds that a majority holds it."""
        self.do(node, MarkCommitted(S, Generation(manifest.generation), manifest.position))

    def start(self, epoch: int, *manifests: Manifest) -> None:
        """a is handed a tenure."""
        heads = tuple(head_of(one, Epoch(epoch)) for one in manifests)
        effect = StartTenure(Epoch(epoch), heads, (), False)
        self.do(self.a, effect)
        restored = {StreamName(head.stream): self.history.content_of(head) for head in heads}
        self.world.tenure_started(self.a, effect, restored)


def owner(node: Node, number: int = 0) -> Promise:
    """A promise to the node's process."""
    return Promise(number, Owner(node.name, node.disk.image.incarnation, bytes(16)))


@pytest.fixture
def world() -> Doctored:
    return Doctored()


def breaks(rule: str) -> pytest.RaisesExc[Violation]:
    """What follows breaks that invariant."""
    return pytest.raises(Violation, match=f"^{rule}: ")


def test_I1_a_promise_falls(world: Doctored) -> None:
    """A lower promise on a disk, and an answer of an epoch that is not promised there."""
    world.a.disk._write(WritePromise(owner(world.b, 5)))
    with breaks("I1"):
        world.a.disk._write(WritePromise(owner(world.b, 4)))
    with breaks("I1"):
        promised = Promised(9, 1, 0, 1, (), world.record, 0, Echo(bytes(16), 0.0))
        world.do(world.c, Send(NodeId("n1"), promised))


def test_I1_two_owners_have_a_majority(world: Doctored) -> None:
    """The same epoch, promised by two of three to one owner, and by two to another."""
    world.a.disk._write(WritePromise(owner(world.a, 3)))
    world.b.disk._write(WritePromise(owner(world.a, 3)))
    world.c.disk._write(WritePromise(owner(world.b, 3)))
    with breaks("I1"):
        world.b.disk._write(WritePromise(owner(world.b, 3)))


def test_I2_an_acceptance_below_the_promise(world: Doctored) -> None:
    """What is accepted in epoch 4 is on a disk that has promised 5."""
    manifest = world.submit(4, 1)
    world.hold(world.b, manifest, 4)
    world.b.disk.image.promise = owner(world.a, 5)
    with breaks("I2"):
        world.world._wrote(world.b.disk, Accept(manifest, Epoch(4)), Accepted(manifest, Epoch(4), 1))


def test_I3_a_commit_is_gone_in_a_later_tenure(world: Doctored) -> None:
    """Committed in epoch 1, and the tenure of epoch 2 restores nothing."""
    manifest = world.submit(1, 1)
    content = world.history.content_of(manifest)
    world.history.commit(S, Committed(0.0, world.a.name, Epoch(1), manifest.position, content))
    with breaks("I3"):
        world.start(2)


def test_I3_what_a_primary_has_noted_is_gone_in_a_later_tenure(world: Doctored) -> None:
    """Adopted in epoch 1 by an owner that had no tenure yet; a backup's note is hearsay (R15)."""
    manifest = world.submit(1, 1)
    world.a.reign, world.a.process = Epoch(1), Process(bytes(16))
    world.a.disk.image.promise = world.b.disk.image.promise = owner(world.a, 1)
    world.note(world.b, manifest)
    assert not world.history.commits
    world.note(world.a, manifest)
    with breaks("I3"):
        world.start(2)


def test_I3_a_deletion_that_no_tenure_was_given_is_no_loss(world: Doctored) -> None:
    """It could not be read when the tenure began; adopted in that and forgotten by all, it takes its stream
    with it."""
    world.a.reign, world.a.process = Epoch(2), Process(bytes(16))
    manifest, tombstone = world.submit(1, 1), world.submit(1, 2, tombstone=True)
    content = world.history.content_of(manifest)
    world.history.commit(S, Committed(0.0, world.b.name, Epoch(1), manifest.position, content))
    world.history.parents[world.history.content_of(tombstone)] = content
    world.a.disk.image.promise = owner(world.a, 2)
    world.note(world.a, tombstone)
    world.start(3)


def test_I4_one_position_names_two_contents(world: Doctored) -> None:
    """Two payloads at the same place."""
    world.submit(1, 1)
    with breaks("I4"):
        world.submit(1, 1)


def test_I4_commits_are_no_chain(world: Doctored) -> None:
    """Two checkpoints commit, and neither descends from the other."""
    first, second = world.submit(1, 1), world.submit(1, 2)
    world.a.engine.epoch = world.a.reign = Epoch(1)
    world.a.engine.lease_words[Epoch(1)] = 1e9
    world.do(world.a, WriteRecord(world.record, Epoch(1), True))
    for node in (world.a, world.b):
        world.history.accept(Epoch(1), node.disk.image.incarnation, second)
    world.do(world.a, Commit(0, S, Generation(1), first.position, ()))
    with breaks("I4"):
        world.do(world.a, Commit(0, S, Generation(1), second.position, ()))


def test_I5_an_ack_of_what_is_not_there(world: Doctored) -> None:
    """Nothing of it on the disk; and then a chunk of it is lacking."""
    manifest = world.submit(1, 1)
    world.b.disk.image.promise = owner(world.a, 1)
    ack = Send(NodeId("n1"), Ack(1, (Acked(S, 1, 1, manifest.digest),)))
    with breaks("I5"):
        world.do(world.b, ack)
    world.hold(world.b, manifest, 1)
    world.do(world.b, ack)
    world.b.disk.image.chunks.clear()
    with breaks("I5"):
        world.do(world.b, ack)


def test_I6_restored_before_it_is_adopted(world: Doctored) -> None:
    """One of three has accepted it in the epoch of the tenure."""
    manifest = world.submit(1, 1)
    world.do(world.a, WriteRecord(world.record, Epoch(2), True))
    world.history.accept(Epoch(2), world.a.disk.image.incarnation, manifest)
    with breaks("I6"):
        world.start(2, manifest)


def test_I7_other_bytes_than_were_submitted(world: Doctored) -> None:
    """A chunk on the disk says something else; another one is not there at all."""
    manifest = world.submit(1, 1)
    world.hold(world.a, manifest, 1)
    head = head_of(manifest, Epoch(1))
    world.a.engine._read(world.a.engine._round, head)
    chunks = world.a.disk.image.chunks
    chunks.update(dict.fromkeys(chunks, b"other bytes"))
    with breaks("I7"):
        world.a.engine._read(world.a.engine._round, head)
    chunks.clear()
    with breaks("I7"):
        world.a.engine._read(world.a.engine._round, head)


def test_I8_nobody_serves(world: Doctored) -> None:
    """All is well but that nobody is ever named."""
    faults = Faults(world.world)
    faults.heal()
    world.world.elector.set_mood(Mood.NOBODY)
    with breaks("I8"):
        Liveness(world.world, faults).require(60.0, 1)


def test_I8_a_stream_is_withheld_for_nothing(world: Doctored) -> None:
    """Its newest checkpoint can be read where it is, or is on too few disks to have committed; what two of
    three hold and nobody can read is waited for."""
    liveness, manifest = Liveness(world.world, Faults(world.world)), world.submit(1, 1)
    world.history.tenures[Epoch(2)] = Tenure(0.0, world.a.name, bytes(16), Epoch(2), {}, frozenset({S}))
    world.a.engine.epoch = Epoch(2)
    world.hold(world.b, manifest, 1)
    assert "never committed" in liveness._withheld_for_nothing(world.a)
    world.hold(world.c, manifest, 1)
    assert "can be read" in liveness._withheld_for_nothing(world.a)
    for node in (world.b, world.c):
        node.disk.damage(S)
    assert liveness._withheld_for_nothing(world.a) == ""


def test_I8_what_was_dropped_need_not_be_everywhere(world: Doctored) -> None:
    """A head that was not adopted in the tenure need not be where the rest of it is; one that was must be."""
    liveness = Liveness(world.world, Faults(world.world))
    world.history.tenures[Epoch(2)] = Tenure(0.0, world.a.name, bytes(16), Epoch(2), {}, frozenset())
    world.a.engine.epoch = Epoch(2)
    world.hold(world.a, world.submit(1, 1), 1)
    assert not liveness._heads(world.a)
    world.hold(world.a, world.submit(2, 2), 2)
    assert liveness._heads(world.a).keys() == {S}


def test_I9_two_tenures_are_active(world: Doctored) -> None:
    """Two lease words run at the same true instant."""
    now = world.a.clock.local(0.0)
    world.b.engine.lease_words[Epoch(1)] = world.b.clock.local(0.1)
    with breaks("I9"):
        world.do(world.a, SetLease(Epoch(2), now + 0.1))


def test_I10_quorums_need_not_meet(world: Doctored) -> None:
    """From one record to another with two new incarnations of three, without a joint one."""
    world.a.reign = Epoch(1)
    world.do(world.a, WriteRecord(world.record, Epoch(1), True))
    first, second, third = world.record.members
    others = (structs.replace(first, incarnation=bytes(16)), structs.replace(second, incarnation=b"1" * 16))
    with breaks("I10"):
        world.do(world.a, WriteRecord(MemberRecord(2, (*others, third)), Epoch(1), True))


def test_I10_a_primary_leaves_itself_out(world: Doctored) -> None:
    """By a joint record, as it should be, yet to members that do not name it."""
    world.a.reign, old = Epoch(1), world.record.members
    new = (structs.replace(old[0], incarnation=bytes(16)), *old[1:])
    world.do(world.a, WriteRecord(MemberRecord(2, new, old), Epoch(1), True))
    with breaks("I10"):
        world.do(world.a, WriteRecord(MemberRecord(3, new), Epoch(1), True))


def test_I10_a_record_goes_back(world: Doctored) -> None:
    """An older version over a newer one, on one disk."""
    world.b.disk._write(WriteRecord(structs.replace(world.record, version=3), Epoch(0), True))
    with breaks("I10"):
        world.b.disk._write(WriteRecord(world.record, Epoch(0), True))


def test_I11_a_tombstone_is_forgotten_too_early(world: Doctored) -> None:
    """Another member still has the stream as it was before it was deleted."""
    older, tombstone = world.submit(1, 1), world.submit(1, 2, tombstone=True)
    world.a.disk.image.streams[S] = (Retained(tombstone, Epoch(1)),)
    world.hold(world.b, older, 1)
    with breaks("I11"):
        world.a.disk._write(ForgetTombstone(S, Generation(1), Sequence(2)))


def test_I12_more_is_under_way_than_allowed(world: Doctored) -> None:
    """Fetches beyond their number, and a queue beyond its length."""
    world.a.fetcher = Fetcher(world.a)
    fetch = Fetch(1, S, world.submit(1, 1).digest, None, ())  # type: ignore[arg-type]
    world.do(world.a, fetch)
    for index in range(world.a.config.fetches_max):
        world.a.fetcher._running[StreamName(str(index))] = fetch
    with breaks("I12"):
        world.do(world.a, fetch)
    manifest = world.submit(1, 2)
    world.a.disk._payload = [Accept(manifest, Epoch(1))] * (QUEUED_MAX + 1)
    with breaks("I12"):
        world.world._wrote(world.a.disk, Accept(manifest, Epoch(1)), None)


def test_I12_a_disk_keeps_what_is_no_longer_needed(world: Doctored) -> None:
    """Its head is known to have committed, and more than one older checkpoint is still there."""
    manifests = [world.submit(1, sequence) for sequence in (1, 2, 3)]
    mark = MarkCommitted(S, Generation(1), manifests[-1].position)
    for count in (2, 3):
        kept = tuple(Retained(manifest, Epoch(1)) for manifest in manifests[-count:])
        world.a.disk.image.streams[S] = kept
        if count == 2:
            world.world._wrote(world.a.disk, mark, None)
    with breaks("I12"):
        world.world._wrote(world.a.disk, mark, None)


def test_every_invariant_has_a_checker_of_its_own(world: Doctored) -> None:
    """I1 to I12, each in a file that begins with its number; liveness is asked at the end."""
    modules = [type(checker).__module__ for checker in all_checkers(world.world)] + [Liveness.__module__]
    numbers = {(importlib.import_module(name).__doc__ or "").split(":")[0] for name in modules}
    assert numbers == {f"I{number}" for number in range(1, 13)}
