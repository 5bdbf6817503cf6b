"""The engine against a DLRM written in NumPy float64."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from row_formats import decode, encode

from screc import _native
from screc.data.batch import Batch
from screc.serving.engine import Engine, _planned_roles


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def make_model(
    num_dense=13, dim=16, num_tables=5, bottom=(64, 32), top=(48, 24), interaction="dot", seed=0
) -> tuple[dict, dict, list[np.ndarray], list[str]]:
    """Model dict, dense tensors, tables and poolings."""
    rng = np.random.default_rng(seed)
    bottom = [*bottom, dim] if num_dense else []
    features = num_tables + bool(num_dense)
    width = features * dim if interaction == "cat" else bool(num_dense) * dim + features * (features - 1) // 2
    top = [*top, 1]
    dense = {}
    for name, widths, inputs in (("bottom", bottom, num_dense), ("top", top, width)):
        for i, out in enumerate(widths):
            dense[f"{name}.{i}.weight"] = random(rng, out, inputs)
            dense[f"{name}.{i}.bias"] = random(rng, out)
            inputs = out
    model = {
        "name": "dlrm",
        "num_dense": num_dense,
        "embedding_dim": dim,
        "bottom_mlp": bottom,
        "top_mlp": top,
        "interaction": interaction,
    }
    tables = [(3 * random(rng, 20 + 7 * t, dim)) for t in range(num_tables)]
    return model, dense, tables, ["mean" if t % 2 else "sum" for t in range(num_tables)]


def make_batch(size: int, num_dense: int, tables: list[np.ndarray], longest: int = 5, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, len(tables) * size)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = [
        rng.integers(0, len(rows), lengths[t * size : (t + 1) * size].sum()) for t, rows in enumerate(tables)
    ]
    dense = rng.standard_normal((size, num_dense)).astype(np.float32)
    return Batch(dense=dense, ids=np.concatenate([*ids, np.zeros(0, np.int64)]), offsets=offsets)


def pooled(batch: Batch, table: int, rows: np.ndarray, pooling: str) -> np.ndarray:
    """One table's bags, float64 [B, dim]."""
    out = np.zeros((batch.batch_size, rows.shape[1]))
    ids, offsets = batch.table_ids(table), batch.table_offsets(table)
    lengths = np.diff(offsets)
    np.add.at(out, np.repeat(np.arange(batch.batch_size), lengths), rows[ids].astype(np.float64))
    return out / np.maximum(lengths, 1)[:, None] if pooling == "mean" else out


def oracle(model: dict, dense: dict, tables: list, poolings: list, batch: Batch) -> np.ndarray:
    def mlp(name: str, x: np.ndarray, relu_last: bool) -> np.ndarray:
        count = len(model[f"{name}_mlp"])
        for i in range(count):
            x = x @ dense[f"{name}.{i}.weight"].T.astype(np.float64) + dense[f"{name}.{i}.bias"]
            if relu_last or i + 1 < count:
                x = np.maximum(x, 0)
        return x

    first = [mlp("bottom", batch.dense.astype(np.float64), True)] if model["num_dense"] else []
    features = first + [pooled(batch, t, tables[t], poolings[t]) for t in range(len(tables))]
    if model["interaction"] == "dot":
        pairs = [
            np.einsum("bd,bd->b", features[i], features[j])[:, None]
            for i in range(len(features))
            for j in range(i)
        ]
        features = first + pairs
    return 1 / (1 + np.exp(-mlp("top", np.concatenate(features, axis=1), False)[:, 0]))


@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("num_dense", [13, 0])
@pytest.mark.parametrize("size", [1, 7, 1000, 5000])
def test_predictions(size, num_dense, interaction):
    made = make_model(num_dense=num_dense, interaction=interaction)
    batch = make_batch(size, num_dense, made[2])
    model, dense, tables, poolings = made
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    out = engine.predict(batch)
    assert out.dtype == np.float32
    assert out.shape == (size,)
    expected = oracle(*made, batch)
    assert expected.std() > 0.01 or size == 1
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("num_dense", "dim", "num_tables", "bottom", "top"),
    [
        (1, 1, 1, (), ()),
        (3, 5, 2, (), (7,)),
        (13, 16, 26, (512, 256, 64), (512, 256)),
        (4, 33, 40, (19, 100), (3, 3, 3)),
        (2, 8, 0, (4,), (5,)),
    ],
)
@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_shapes(num_dense, dim, num_tables, bottom, top, interaction):
    made = make_model(num_dense, dim, num_tables, bottom, top, interaction, seed=3)
    batch = make_batch(131, num_dense, made[2], seed=4)
    engine = Engine.from_arrays(made[0], made[1], made[2], poolings=made[3], threads=2)
    np.testing.assert_allclose(engine.predict(batch), oracle(*made, batch), atol=1e-5)


def test_a_prediction_does_not_depend_on_the_batch_or_the_threads():
    model, dense, tables, poolings = make_model()
    batch = make_batch(2500, 13, tables)
    outs = [
        Engine.from_arrays(model, dense, tables, poolings=poolings, threads=threads).predict(batch)
        for threads in (1, 2, 3)
    ]
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=1)
    for start, stop in ((0, 1), (5, 18), (2303, 2305), (2400, 2500), (0, 2499)):
        assert np.array_equal(engine.predict(batch.rows(start, stop)), outs[0][start:stop])


def test_empty_batch_and_empty_bags():
    made = make_model()
    engine = Engine.from_arrays(*made[:3], poolings=made[3])
    none = Batch(np.zeros((0, 13), np.float32), np.zeros(0, np.int64), np.zeros(1, np.int64))
    assert engine.predict(none).shape == (0,)
    bare = Batch(np.ones((3, 13), np.float32), np.zeros(0, np.int64), np.zeros(16, np.int64))
    np.testing.assert_allclose(engine.predict(bare), oracle(*made, bare), atol=1e-5)


def test_more_look_ups_wait_for_the_threads_than_there_are_contexts():
    """A batch that has the threads must not wait for a look-up that waits for them."""
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    batch = make_batch(2000, 13, tables)
    expected = engine.predict(batch)
    columns = sum(rows.shape[1] for rows in tables)

    def look_up() -> None:
        out = np.empty((batch.batch_size, columns), np.float32)
        for _ in range(300):
            engine._store.lookup(batch.ids, batch.offsets, batch.batch_size, out)

    def predict() -> None:
        for _ in range(300):
            assert np.array_equal(engine.predict(batch), expected)

    with ThreadPoolExecutor(14) as pool:
        for work in [pool.submit(look_up) for _ in range(12)] + [pool.submit(predict) for _ in range(2)]:
            work.result(timeout=60)


def test_threads_take_turns():
    made = make_model()
    engine = Engine.from_arrays(*made[:3], poolings=made[3], threads=2)
    batches = [make_batch(size, 13, made[2], seed=size) for size in (1, 50, 700, 1500)]
    expected = [engine.predict(batch) for batch in batches]

    def work(start: int) -> None:
        for k in range(40):
            i = (start + k) % len(batches)
            np.testing.assert_array_equal(engine.predict(batches[i]), expected[i])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_every_instruction_set(isa, tmp_path):
    """SCREC_ISA is read once per process, so each gets its own."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, test_engine as t\n"
        "made = t.make_model()\n"
        "batch = t.make_batch(200, 13, made[2])\n"
        "engine = t.Engine.from_arrays(*made[:3], poolings=made[3], threads=1)\n"
        "assert engine.isa == sys.argv[2], engine.isa\n"
        "np.testing.assert_allclose(engine.predict(batch), t.oracle(*made, batch), atol=1e-5)\n"
    )
    environment = {**os.environ, "SCREC_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__), isa],
        env=environment,
        check=True,
        cwd=tmp_path,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_dense_values_must_be_finite(value):
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings)
    batch = make_batch(20, 13, tables)
    batch.dense[17, 4] = value
    with pytest.raises(ValueError, match=rf"dense\[17, 4\] = {value} is not finite"):
        engine.predict(batch)


def test_bad_batches_are_named():
    model, dense, tables, _ = make_model()
    engine = Engine.from_arrays(model, dense, tables)
    good = make_batch(4, 13, tables)

    def predict(**changes) -> None:
        fields = {"dense": good.dense, "ids": good.ids, "offsets": good.offsets} | changes
        engine.predict(Batch(**fields))

    with pytest.raises(ValueError, match="dense: expected 13 columns, got 12"):
        predict(dense=np.zeros((4, 12), np.float32))
    with pytest.raises(TypeError, match="dense: expected dtype float32"):
        predict(dense=good.dense.astype(np.float64))
    with pytest.raises(ValueError, match=r"offsets: expected 21 entries .* got 20"):
        predict(offsets=good.offsets[:-1])
    bad = good.ids.copy()
    bad[-1] = 48
    with pytest.raises(ValueError, match=r"table 4.*48"):
        predict(ids=bad)
    np.testing.assert_array_equal(engine.predict(good), engine.predict(good))


def changed(dense: dict, **tensors: np.ndarray | None) -> dict:
    new = dict(dense)
    for name, tensor in tensors.items():
        key = name.replace("_", ".")
        if tensor is None:
            del new[key]
        else:
            new[key] = tensor
    return new


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("model_change", "dense_change", "message"),
    [
        ({"name": "dcn"}, {}, "model name 'dcn' is not served here"),
        ({"interaction": "sum"}, {}, "interaction 'sum' is unknown; use 'dot' or 'cat'"),
        ({"num_dense": 0}, {}, "bottom has 3 layers for 0 dense features"),
        ({"num_dense": 12}, {}, r"bottom\.0\.weight takes 13 inputs, expected 12, num_dense"),
        ({"bottom_mlp": []}, {}, "bottom has 0 layers for 13 dense features"),
        ({"top_mlp": []}, {}, "top has no layers"),
        ({"bottom_mlp": [64, 32]}, {}, r"bottom\.1\.weight gives 32 outputs, expected 16, embedding_dim"),
        ({"top_mlp": [48, 24]}, {}, r"top\.1\.weight gives 24 outputs, expected 1, the logit"),
        ({"embedding_dim": 8}, {}, "table 0 has embedding_dim 16, expected 8 as interaction 'dot' needs"),
        ({}, {"top_1_bias": None}, r"dense tensor top\.1\.bias is missing"),
        ({}, {"top_1_bias": zeros(23)}, r"top\.1\.bias: expected shape \[24\], got \[23\]"),
        ({}, {"top_1_weight": zeros(24, 47)}, r"top\.1\.weight takes 47 inputs, expected 48, the outputs of"),
        ({}, {"top_1_weight": zeros(25, 48)}, r"top\.1\.weight has shape \[25, 48\], top_mlp says 24"),
        ({}, {"top_0_weight": zeros(48, 30)}, r"top\.0\.weight takes 30 inputs, expected 31, the width of"),
    ],
)
def test_models_that_do_not_fit_are_named(model_change, dense_change, message):
    model, dense, tables, _ = make_model()
    with pytest.raises(ValueError, match=message):
        Engine.from_arrays(model | model_change, changed(dense, **dense_change), tables)


def test_bad_tables_are_named():
    model, dense, tables, _ = make_model()
    with pytest.raises(ValueError, match="poolings has 2 entries for 5 tables"):
        Engine.from_arrays(model, dense, tables, poolings=["sum", "mean"])
    with pytest.raises(ValueError, match=r"poolings\[1\]: expected 'sum' or 'mean', got 'max'"):
        Engine.from_arrays(model, dense, tables, poolings=["sum", "max", "sum", "sum", "sum"])
    with pytest.raises(ValueError, match=r"tables\[0\]: expected 2 dimensions"):
        Engine.from_arrays(model, dense, [tables[0].ravel(), *tables[1:]])


def test_properties_and_statistics():
    model, dense, tables, _ = make_model()
    engine = Engine.from_arrays(model, dense, tables, threads=2)
    assert engine.num_threads == 2
    assert engine.isa == _native.isa()
    batch = make_batch(30, 13, tables)
    engine.predict(batch)
    stats = engine.stats()
    lookups = stats["lookups"] if isinstance(stats, dict) else stats.lookups
    assert lookups == batch.ids.size


@pytest.mark.parametrize("row_format", ["fp16", "bf16", "int8", "int4"])
def test_tables_are_held_in_the_format_asked_for(row_format):
    model, dense, tables, poolings = make_model()
    batch = make_batch(70, 13, tables)
    rounded = [decode(encode(rows, row_format), row_format, 16) for rows in tables]
    expected = Engine.from_arrays(model, dense, rounded, poolings=poolings).predict(batch)
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, row_format=row_format)
    held = sum(rows.shape[0] for rows in tables) * _native.row_bytes(row_format, 16)
    assert engine.stats().dram_bytes == held
    np.testing.assert_allclose(engine.predict(batch), expected, rtol=0, atol=2e-6)


def test_a_row_that_the_format_cannot_hold_is_named():
    model, dense, tables, _ = make_model()
    tables[2][5, 3] = 1e9
    with pytest.raises(ValueError, match=r"tables\[2\]: rows\[5\] holds 1e.09, which fp16 rows cannot hold"):
        Engine.from_arrays(model, dense, tables, row_format="fp16")
    with pytest.raises(ValueError, match="format: 'int2' is unknown"):
        Engine.from_arrays(model, dense, tables, row_format="int2")


def test_the_roles_of_a_plan_are_found_in_old_plans_and_new_ones() -> None:
    assert _planned_roles({}) is None
    assert _planned_roles({"version": 1, "options": {"roles": None}}) is None
    assert _planned_roles({"version": 1, "options": {"roles": [1, 2]}}) == (1, 2)
    assert _planned_roles({"version": 2, "assignment": {"memory": 0, "compute": 0}}) is None
    assert _planned_roles({"version": 2, "assignment": {"memory": 2, "compute": 1}}) == (2, 1)
