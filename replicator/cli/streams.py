"""``replicator streams``: what a node's store holds, whether the node runs or not."""

from __future__ import annotations

from contextlib import closing

from msgspec import Struct

from replicator.cli.common import AsJson, DataDir, find_data_dir, human_bytes, print_json, print_table


class Held(Struct, frozen=True):
    """The newest checkpoint of one stream in this store."""

    stream: str
    epoch: int
    sequence: int
    committed: bool
    deleted: bool
    readable: bool
    raw_bytes: int
    stored_bytes: int
    chunks: int
    parts: list[str]


def streams(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the streams in a node's store.

    Each with its newest checkpoint, whether the node runs or not. "committed" is what this node has heard;
    a checkpoint that is not known to be committed may be so all the same.

    \b
    replicator streams
    replicator streams --data-dir /var/lib/replicator --json
    """
    from replicator.adapters.store_reader import StoreReader

    with closing(StoreReader(find_data_dir(data_dir))) as reader:
        held = [
            Held(
                stream=head.stream,
                epoch=head.epoch,
                sequence=head.sequence,
                committed=committed,
                deleted=head.tombstone,
                readable=head.readable,
                raw_bytes=manifest.raw_bytes,
                stored_bytes=manifest.stored_bytes,
                chunks=sum(len(part.chunks) for part in manifest.parts),
                parts=[part.name for part in manifest.parts] if manifest.is_mapping else [],
            )
            for head, manifest, committed in reader.streams()
        ]
    if as_json:
        print_json(held)
        return
    columns = ("stream", "epoch", "sequence", "state", "size", "stored", "chunks", "parts")
    print_table(columns, map(_row, held))


def _row(held: Held) -> tuple[str, ...]:
    state = "committed" if held.committed else "not known committed"
    if held.deleted:
        state = "deleted"
    elif not held.readable:
        state = "damaged here"
    return (
        held.stream,
        str(held.epoch),
        str(held.sequence),
        state,
        human_bytes(held.raw_bytes),
        human_bytes(held.stored_bytes),
        str(held.chunks),
        str(len(held.parts) or ""),
    )
