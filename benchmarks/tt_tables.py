"""Tables to fit tensor trains to, and how often their rows are looked up."""

from __future__ import annotations

import numpy as np

from screc import _native
from screc.storage.layout import TtShape

ZIPF_EXPONENT = 1.05
TT_RANK, NOISE = 16, 0.5
KINDS = ("tt-plus-noise", "trained-like")
_ROWS_PER_STEP = 1 << 18


def make_table(kind: str, num_rows: int, dim: int, counts: np.ndarray) -> np.ndarray:
    """Rows float32 [num_rows, dim].

    ``tt-plus-noise``: a tensor train of random cores of TT rank 16, its entries of deviation 1, and Gaussian
    noise of deviation 0.5. There is something to find.
    ``trained-like``: what training leaves of rows that are looked up ``counts`` times. A row starts at
    uniform noise, +-0.1, and moves towards its own place by 1 - exp(-count / 3); the places are 200 clusters
    and what sets rows apart within one, of as much variance, both in directions whose deviations fall as
    k^-0.7. Ids say nothing of the clusters, as hashed ids do not, so a tensor train has nothing but the
    look-ups to go by.
    """
    generator = np.random.default_rng(11)
    out = _native.empty(4 * num_rows * dim).view(np.float32).reshape(num_rows, dim)
    if kind == "tt-plus-noise":
        shape = TtShape.balanced(num_rows, dim, TT_RANK)
        cores = [
            generator.standard_normal(shape.core_shape(k), dtype=np.float32)
            / np.float32(shape.ranks[k] ** 0.5)
            for k in range(shape.num_cores)
        ]
        pool = _native.ThreadPool(0)
        for start in range(0, num_rows, _ROWS_PER_STEP):
            part = out[start : start + _ROWS_PER_STEP]
            _native.tt_rows(cores, start + np.arange(len(part)), part, pool)
            part += generator.standard_normal(part.shape, dtype=np.float32) * np.float32(NOISE)
        return out
    if kind != "trained-like":
        raise ValueError(f"kind: expected one of {KINDS}, got '{kind}'")
    basis = np.linalg.qr(generator.standard_normal((dim, dim)))[0]
    falling = (1 + np.arange(dim)) ** -0.7
    directions = (falling[:, None] * basis / np.sqrt((falling**2).mean() * 2)).astype(np.float32)
    centres = generator.standard_normal((200, dim), dtype=np.float32)
    for start in range(0, num_rows, _ROWS_PER_STEP):
        part = out[start : start + _ROWS_PER_STEP]
        places = generator.standard_normal(part.shape, dtype=np.float32)
        places += centres[generator.integers(0, len(centres), len(part))]
        moved = 1 - np.exp(-counts[start : start + len(part), None] / 3)
        part[...] = generator.uniform(-0.1, 0.1, part.shape)
        part += moved.astype(np.float32) * (places @ directions)
    return out


def look_ups(num_rows: int, total: int, order: str = "scattered") -> np.ndarray:
    """Expected look-ups of each row, float32 [num_rows]: Zipf, by a random permutation of the ids or, with
    ``order`` "ranked", the first id the hottest."""
    counts = (1 + np.arange(num_rows)) ** -ZIPF_EXPONENT
    counts *= total / counts.sum()
    if order == "scattered":
        counts = np.random.default_rng(12).permutation(counts)
    return counts.astype(np.float32)
