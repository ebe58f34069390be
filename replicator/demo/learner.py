"""The engine's logic: a tree that learns online whether a row of Shuttle sensor readings is an anomaly.

It predicts each row before it learns from it. All it knows is in three parts, so that a checkpoint of
them is the whole engine: the model, the metric, and a digest chained over every prediction made so far.
Restored from a checkpoint, it goes on to the very same bits as if it had never stopped.

Run as a program it is the uninterrupted run that the demo compares with: no replicator, no checkpoints.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import os
import pickle
import random
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from river import datasets, metrics, tree

from replicator.demo.records import Predictions, Result
from replicator.demo.tie import end_with_director
from replicator.model import Buffer

Row = tuple[dict[str, int], int]

_FLOAT = struct.Struct("<d")
_OFFSET = struct.Struct("<Q")


def read_rows(count: int) -> tuple[Row, ...]:
    """The first *count* rows of the Shuttle set (49,097 of nine channels each), which river brings along."""
    return tuple(row for row, _ in zip(datasets.Shuttle(), range(count), strict=False))


class Learner:
    """One model with its metric, the source offset it has come to, and the digest of what it has said."""

    def __init__(self) -> None:
        self.offset = 0
        self._model: Any = tree.HoeffdingTreeClassifier(grace_period=100)
        self._metric: Any = metrics.ROCAUC()  # type: ignore[no-untyped-call]
        self._digest = bytes(32)

    @classmethod
    def restore(cls, parts: Mapping[str, Buffer], meta: bytes) -> Learner:
        """The learner that `dump` and `meta` were taken from."""
        learner = cls()
        learner._model = pickle.loads(parts["model"])
        learner._metric = pickle.loads(parts["metric"])
        learner._digest = bytes(parts["digest"])
        (learner.offset,) = _OFFSET.unpack(meta)
        return learner

    def learn(self, row: Row) -> float:
        """Predict the probability of an anomaly, then learn the truth; returns the prediction."""
        channels, truth = row
        probability = float(self._model.predict_proba_one(channels).get(1, 0.0))
        self._model.learn_one(channels, truth)
        self._metric.update(truth, probability)
        self._digest = hashlib.sha256(self._digest + _FLOAT.pack(probability)).digest()
        self.offset += 1
        return probability

    def dump(self) -> dict[str, bytes]:
        """The checkpoint's parts; each is chunked apart, so one that stays the same is not sent again."""
        return {
            "model": pickle.dumps(self._model, pickle.HIGHEST_PROTOCOL),
            "metric": pickle.dumps(self._metric, pickle.HIGHEST_PROTOCOL),
            "digest": self._digest,
        }

    def meta(self) -> bytes:
        """The source offset, as it travels beside the parts."""
        return _OFFSET.pack(self.offset)

    def result(self) -> Result:
        """What is compared with the uninterrupted run's."""
        return Result(self.offset, float(self._metric.get()), self._digest.hex(), _fingerprint(self._model))


def _fingerprint(model: object) -> str:
    """A digest of the model's contents, whatever its objects share and however often it was pickled.

    Without a memo, equal contents give equal bytes. River's distributions carry a random source, for
    drawing samples, which learning and predicting never touch: it is left out.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.fast = True
    pickler.dispatch_table = copyreg.dispatch_table | {random.Random: lambda _: (random.Random, ())}
    pickler.dump(model)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def run_uninterrupted(directory: Path, count: int) -> None:
    """Learn *count* rows in one go; leaves the predictions and the result in *directory*.

    It gives way to everything else that wants the processor: the demo's times are not its business.
    """
    os.nice(19)
    learner, predictions = Learner(), Predictions(directory)
    for row in read_rows(count):
        predictions.append([(learner.offset, 0, learner.learn(row))])
    learner.result().write(directory)


if __name__ == "__main__":
    end_with_director()
    run_uninterrupted(Path(sys.argv[1]), int(sys.argv[2]))
