"""What other rows do to a DLRM's log-loss, sample by sample, computed from what they change.

Everything that does not depend on the table in question is computed once and kept: pooled features, the
bottom MLP, and the first top layer's sums. Other rows of one table move the features of some samples by a
delta; a delta moves some inner products, those move the first layer's sums, and only from there on is
anything computed again, for those samples alone. Both losses are of the same samples in the same arithmetic,
so that their difference is known far better than either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from screc.data.batch import Batch
from screc.statistics.metrics import area_under_curve

# Samples whose layers are computed at once: their activations fit into the second-level cache.
_BLOCK = 2048


class Changes(NamedTuple):
    """How the log-loss of samples changes, float64 [n] each, nats.

    Attributes:
        rise: of the loss on their labels.
        expected: of the loss if the probabilities before were the true ones, the divergence KL(before,
            after): never negative, and free of the chance in the labels.
    """

    rise: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableLookups:
    """The bags of one table: which rows all samples ask for.

    Attributes:
        ids: int64 [u], the distinct rows, ascending.
        rows: float32 [u, d], their values.
        places: int64 [nnz], the row of each look-up, as its place in ``ids``.
        offsets: int64 [S + 1]; sample s asks for ``places[offsets[s] : offsets[s + 1]]``.
        mean: whether a bag is the mean of its rows, not their sum.
    """

    ids: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    offsets: np.ndarray
    mean: bool

    def pooled(self, rows: np.ndarray) -> np.ndarray:
        """The features of all samples, float32 [S, d], if the distinct rows were ``rows`` [u, d]."""
        return self._pool(rows, np.arange(len(self.offsets) - 1))

    def delta(self, rows: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """How far the features of some samples move with other rows [u, d], float32 [samples, d]."""
        return self._pool(rows - self.rows, samples)

    def any_lookup(self, chosen: np.ndarray) -> np.ndarray:
        """The samples, ascending, that ask for any of the chosen rows (bool [u])."""
        before = np.concatenate(([0], np.cumsum(chosen[self.places])))
        return np.flatnonzero(np.diff(before[self.offsets]))

    def _pool(self, rows: np.ndarray, samples: np.ndarray) -> np.ndarray:
        lengths = np.diff(self.offsets)[samples]
        starts = self.offsets[:-1][samples]
        if (lengths == 1).all():
            return rows[self.places[starts]]
        out = np.zeros((len(samples), rows.shape[1]), np.float32)
        # Look-up by look-up: bags are short beside the number of samples.
        for number in range(int(lengths.max(initial=0))):
            here = np.flatnonzero(lengths > number)
            out[here] += rows[self.places[starts[here] + number]]
        if self.mean:
            out /= np.maximum(lengths, 1)[:, None]
        return out


class PairedSample:
    """Labelled samples, and all of a DLRM's work on them that stays when rows change.

    Memory: 4 bytes a sample for every number of all features and of the first top layer's outputs; with 26
    tables of dimension 16 and 512 outputs 3.8 kB a sample.

    Args:
        model: the model dict of checkpoints (:class:`screc.serving.Engine`).
        dense: its weights, as for the engine.
        batch: the samples, with labels of both kinds.
        tables: their look-ups.

    Attributes:
        log_loss: mean log-loss.
        auc: AUC of the predictions.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        dense: Mapping[str, np.ndarray],
        batch: Batch,
        tables: Sequence[TableLookups],
    ) -> None:
        assert batch.labels is not None
        self.tables = tables
        self._labels = batch.labels
        self._dot = model["interaction"] == "dot"
        self._bottom, self._top = _layers("bottom", model, dense), _layers("top", model, dense)
        self._features = np.empty(
            (batch.batch_size, len(tables) + bool(model["num_dense"]), model["embedding_dim"]), np.float32
        )
        self._first = self._features.shape[1] - len(tables)
        if self._first:
            for block in _blocks(batch.batch_size):
                self._features[block, 0] = _forward(self._bottom, batch.dense[block], last_relu=True)
        for number, table in enumerate(tables):
            self._features[:, self._first + number] = table.pooled(table.rows)
        self._sums = np.empty((batch.batch_size, len(self._top[0][1])), np.float32)
        for block in _blocks(batch.batch_size):
            self._sums[block] = self._first_sums(self._features[block])
        self._base = self._logits(self._sums)
        self.log_loss = float(_log_losses(self._base.astype(np.float64), self._labels).mean())
        self.auc = area_under_curve(self._base, self._labels)

    @property
    def num_samples(self) -> int:
        """S."""
        return len(self._labels)

    def changes(self, table: int, samples: np.ndarray, delta: np.ndarray) -> Changes:
        """How the loss of some samples changes when one table's features move.

        Args:
            table: its number.
            samples: int64 [n].
            delta: float32 [n, d].
        """
        feature = self._first + table
        weight, dim = self._top[0][0], self._features.shape[2]
        logits = np.empty(len(samples), np.float32)
        if self._dot:
            columns = self._pair_columns(feature)
            moved_by = np.zeros((self._features.shape[1], weight.shape[1]), np.float32)
            others = np.arange(self._features.shape[1]) != feature
            moved_by[others] = weight[columns]
        else:
            moved_by = weight[feature * dim : (feature + 1) * dim]
        for block in _blocks(len(samples)):
            chosen = samples[block]
            moves = delta[block]
            if self._dot:
                moves = np.einsum("sfd,sd->sf", self._features[chosen], moves)
            logits[block] = self._logits(self._sums[chosen] + moves @ moved_by)
        return _changes(self._base[samples], logits, self._labels[samples])

    def with_rows(self, rows: Sequence[np.ndarray]) -> tuple[Changes, float]:
        """How the loss of every sample changes with other rows [u, d] of all tables, and the AUC then."""
        logits = np.empty(self.num_samples, np.float32)
        for block in _blocks(self.num_samples):
            features = self._features[block].copy()
            samples = np.arange(block.start, block.start + len(features))
            for number, (table, own) in enumerate(zip(self.tables, rows, strict=True)):
                features[:, self._first + number] += table.delta(own, samples)
            logits[block] = self._logits(self._first_sums(features))
        return _changes(self._base, logits, self._labels), area_under_curve(logits, self._labels)

    def _first_sums(self, features: np.ndarray) -> np.ndarray:
        """The first top layer's outputs before their activation, float32 [n, outputs]."""
        weight, bias = self._top[0]
        if not self._dot:
            return features.reshape(len(features), -1) @ weight + bias
        i, j = np.tril_indices(features.shape[1], -1)
        products = (features @ features.transpose(0, 2, 1))[:, i, j]
        if self._first:
            products = np.concatenate((features[:, 0], products), axis=1)
        return products @ weight + bias

    def _pair_columns(self, feature: int) -> np.ndarray:
        """Where the inner products of a feature with each other one stand among the top MLP's inputs."""
        others = np.delete(np.arange(self._features.shape[1]), feature)
        i, j = np.maximum(others, feature), np.minimum(others, feature)
        return self._first * self._features.shape[2] + i * (i - 1) // 2 + j

    def _logits(self, sums: np.ndarray) -> np.ndarray:
        """Logits [n] from the first top layer's sums [n, outputs], in blocks."""
        if len(self._top) == 1:
            return sums[:, 0]
        out = np.empty(len(sums), np.float32)
        for block in _blocks(len(sums)):
            hidden = np.maximum(sums[block], 0)
            out[block] = _forward(self._top[1:], hidden, last_relu=False)[:, 0]
        return out


def _layers(
    name: str, model: Mapping[str, Any], dense: Mapping[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights [in, out] and biases [out] of one MLP."""
    return [
        (np.ascontiguousarray(dense[f"{name}.{i}.weight"].T), dense[f"{name}.{i}.bias"])
        for i in range(len(model[f"{name}_mlp"]))
    ]


def _forward(
    layers: Sequence[tuple[np.ndarray, np.ndarray]], x: np.ndarray, *, last_relu: bool
) -> np.ndarray:
    for number, (weight, bias) in enumerate(layers, start=1):
        x = x @ weight
        x += bias
        if last_relu or number < len(layers):
            np.maximum(x, 0, out=x)
    return x


def _log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of predictions with labels, or with probabilities of a click, float64 [n], nats."""
    return np.logaddexp(0.0, logits) - labels * logits


def _changes(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Changes:
    """From logits [n] to others."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    return Changes(
        *(
            _log_losses(after, truth) - _log_losses(before, truth)
            for truth in (labels, 1 / (1 + np.exp(-before)))
        )
    )


def _blocks(size: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
