"""A sink that stores the epoch with each transaction keeps a zombie out, whatever the zombie believes."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from pathlib import Path

from tests.examples.sqlite_sink import SqliteSink
from tests.integration.cluster import Cluster, Node


def test_a_zombie_is_refused_by_the_sink(tmp_path: Path) -> None:
    """A primary stopped between its look at the lease and its write, and continued when another one has
    taken over, writes nothing: the sink refuses its epoch. Then it learns that its tenure has ended."""
    database, gates = tmp_path / "sink.db", tmp_path / "gates"
    gates.mkdir()
    with Cluster(tmp_path) as cluster:
        script = Path(__file__).with_name("sink_script.py")
        for node in cluster.nodes.values():
            node.start(sys.executable, str(script), str(database), str(gates))

        def about_to_write(other_than: Node | None = None) -> tuple[Node, str] | None:
            for node in cluster.nodes.values():
                said = re.findall(r"epoch (\d+): about to write", node.output())
                if said and node is not other_than:
                    return node, said[-1]
            return None

        zombie, old = cluster.wait(about_to_write, what="a first primary")
        zombie.stop()
        successor, new = cluster.wait(lambda: about_to_write(other_than=zombie), what="a second primary")
        (gates / new).touch()
        cluster.wait(lambda: f"epoch {new}: written" in successor.output(), what="its write")
        zombie.cont()
        (gates / old).touch()
        refusal = f"refused: epoch {old} is over; the sink is at epoch {new}"
        cluster.wait(lambda: refusal in zombie.output(), what="the refusal")
        cluster.wait(lambda: f"epoch {old}: ended" in zombie.output(), what="the end of its tenure")
    with closing(SqliteSink(database)) as sink:
        assert sink.read() == [(int(new), 0.5, int(new))]
