"""Whether the tensors of an artifact agree with its layouts and with themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .artifact import Artifact, index_specs, written_kind, written_specs
from .page_order import is_permutation
from .row_format import decode_rows
from .tensors import TensorFile


def tensor_faults(artifact: Artifact, tensors: TensorFile) -> Iterator[str]:
    """What is wrong with indices, shared scales and default rows, for people. Each index must hold as many
    ids as its band has rows, every slot once, and counts that add up; numbers must be finite."""
    for number, table in enumerate(artifact.tables):
        layout = table.layout
        for position, kind in enumerate(table.indices):
            where = f"for table {layout.table}, band {position}"
            band, prefix = layout.bands[position], f"{number}.{position}"
            scale = None
            if band.scale == "table":
                shared = tensors[f"{prefix}.scale"]
                if not np.isfinite(shared).all() or shared[0] < 0:
                    yield f"has a wrong scale {where}"
                scale = (float(shared[0]), float(shared[1]))
            arrays = [tensors[f"{prefix}.index.{name}"] for name in index_specs(layout, position)]
            if kind is not None and not _good(kind, arrays, layout.num_embeddings, band.num_rows):
                yield f"has a wrong {kind} index {where}"
            if band.written is None or (form := written_kind(layout, position)) is None:
                continue
            arrays = [tensors[f"{prefix}.pages.{name}"] for name in written_specs(layout, position)]
            if not _good(form, arrays, layout.page_groups(position), band.written):
                yield f"has a wrong {form} index of written pages {where}"
            assert band.format != "tt"
            default = tensors[f"{prefix}.default"][None]
            if band.format != "fp32":
                default = decode_rows(default, band.format, layout.embedding_dim, scale)
            if not np.isfinite(default).all():
                yield f"has a default row that is not finite {where}"


def _good(kind: str, arrays: Sequence[np.ndarray], limit: int, count: int) -> bool:
    """An index of ``count`` numbers below ``limit``."""
    if kind == "order":
        return is_permutation(*arrays)
    return (_bitmap_good if kind == "bitmap" else _hash_good)(*arrays, limit, count)


def _bitmap_good(bits: np.ndarray, directory: np.ndarray, num_embeddings: int, rows: int) -> bool:
    blocks = _ones_in_blocks(bits)
    beyond = int(bits[-1]) >> (num_embeddings % 64) if num_embeddings % 64 else 0
    return bool(
        beyond == 0
        and directory[0] == 0
        and int(directory[-1]) == rows
        and (np.cumsum(blocks) == directory[1:]).all()
    )


def _ones_in_blocks(words: np.ndarray) -> np.ndarray:
    """The number of ones in every 512 bits, the last block being as long as it is."""
    per_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
    blocks = np.zeros(-(-words.size // 8), np.int64)
    step = 1 << 20  # words at a time, a multiple of the block
    for start in range(0, words.size, step):
        ones = per_byte[words[start : start + step].view(np.uint8)]
        sums = np.add.reduceat(ones, np.arange(0, ones.size, 64), dtype=np.int64)
        blocks[start // 8 : start // 8 + sums.size] = sums
    return blocks


def _hash_good(keys: np.ndarray, slots: np.ndarray, num_embeddings: int, rows: int) -> bool:
    taken = keys != -1
    ids, places = keys[taken], slots[taken]
    if len(ids) != rows:
        return False
    if rows == 0:  # of written pages there may be none
        return True
    if ids.min() < 0 or ids.max() >= num_embeddings or places.max() >= rows:
        return False
    return len(np.unique(ids)) == rows and len(np.unique(places)) == rows
