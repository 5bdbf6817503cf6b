"""Frappe as clicks: ten one-hot fields, two uniform unseen negatives per positive, random 80/20 split.

    python -m recipes.prepare_frappe --data $SCREC_DATA --out DIR

reads ``frappe/frappe.parquet`` (the raw log) and writes ``train.parquet``, ``test.parquet`` and
``schema.json``. The data is for research only (Baltrunas et al., 2015) and may not be redistributed: keep DIR
to yourself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recipes.click_pairs import run_from_command_line, unseen_items, write_part
from screc.data import CategoricalColumn, Schema

FIELDS = (
    *("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"),
)
NEGATIVES = 2
TRAIN_SHARE = 0.8


def prepare(data: Path, out: Path, *, seed: int = 0) -> tuple[int, int]:
    """Write the two parts; returns their rows (230,886 and 57,723 for the whole log)."""
    log = pq.read_table(data / "frappe" / "frappe.parquet", columns=list(FIELDS))
    ids: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    for name in FIELDS:
        values, ids[name] = np.unique(log.column(name).to_numpy(), return_inverse=True)
        ids[name] = ids[name].astype(np.int64)
        sizes[name] = values.size
    random = np.random.default_rng(seed)
    order = random.permutation(log.num_rows)
    cut = int(log.num_rows * TRAIN_SHARE)
    schema = Schema(
        categorical=tuple(CategoricalColumn(name=name, num_embeddings=sizes[name]) for name in FIELDS)
    )
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for part, positives in (("train", order[:cut]), ("test", order[cut:])):
        rows = np.repeat(positives, 1 + NEGATIVES)
        columns = {name: ids[name][rows] for name in FIELDS}
        label = np.zeros((positives.size, 1 + NEGATIVES), dtype=np.int8)
        label[:, 0] = 1
        columns["label"] = label.ravel()
        negative = columns["label"] == 0
        # Unseen by the user in the whole log, in any context.
        columns["item"][negative] = unseen_items(
            columns["user"][negative],
            ids["user"],
            ids["item"],
            sizes["item"],
            lambda n: random.integers(0, sizes["item"], n),
        )
        written.append(write_part(out / f"{part}.parquet", schema, columns, random.permutation(rows.size)))
    schema.save(out / "schema.json")
    return written[0], written[1]


if __name__ == "__main__":
    run_from_command_line(prepare, __doc__, "frappe/frappe.parquet")
