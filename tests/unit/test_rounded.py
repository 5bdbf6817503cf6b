"""Rows that are trained as they will be served: rounding, straight-through gradients, shared scales."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_log import TinyLog, tiny_model

from screc.embeddings import RoundedTable
from screc.embeddings.rounded import scale_is_due
from screc.serving import Engine
from screc.storage import Artifact, Band, Checkpoint, TableLayout, pack
from screc.storage.row_format import decode_rows, encode_rows
from screc.training import TrainingConfig, load_model, predict, train

ROWS, DIM = 50, 8


def table(kind: str, **options) -> RoundedTable:
    name, _, scale = kind.partition("/")
    band = Band(start=0, stop=ROWS, format=name, memory="dram", scale=scale or "row")
    layout = TableLayout(table="t", num_embeddings=ROWS, embedding_dim=DIM, bands=(band,))
    return RoundedTable(layout, **{"init_std": 0.5, "generator": torch.Generator().manual_seed(3), **options})


def shared(made: RoundedTable) -> tuple[float, float]:
    scale, bias = made.tensors()["band.0.scale"].tolist()
    return scale, bias


@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8", "int4", "int8/table", "int4/table"])
def test_lookups_give_what_encoded_rows_decode_to(kind: str) -> None:
    made = table(kind)
    weight = made.weight.detach().numpy().copy()
    name, _, owner = kind.partition("/")
    scale = shared(made) if owner else None
    expected = decode_rows(encode_rows(weight, name, scale), name, DIM, scale)
    found = made.rows(torch.arange(ROWS)).detach().numpy()
    np.testing.assert_array_equal(found, expected)
    assert (found != weight).any()
    np.testing.assert_array_equal(made.weight.detach().numpy(), weight)  # rows themselves are not rounded


@pytest.mark.parametrize("kind", ["fp16", "int4"])
def test_gradients_pass_as_if_nothing_were_rounded(kind: str) -> None:
    made, exact = table(kind), table("fp32")
    wanted = torch.tensor([1, 4, 30])
    weights = torch.randn(3, DIM, generator=torch.Generator().manual_seed(1))
    for one in (made, exact):
        (one.rows(wanted) * weights).sum().backward()
    assert made.weight.grad.is_sparse
    assert made.weight.grad._indices()[0].tolist() == wanted.tolist()
    torch.testing.assert_close(made.weight.grad.to_dense(), exact.weight.grad.to_dense())


def test_values_beyond_the_codes_move_only_back() -> None:
    made = table("int8/table")
    scale, bias = shared(made)
    with torch.no_grad():
        made.weight[0, 0] = bias + 300 * scale
        made.weight[0, 1] = bias - 40 * scale
    for sign in (1, -1):
        made.zero_grad()
        (sign * made.rows(torch.tensor([0]))).sum().backward()
        gradient = made.weight.grad.to_dense()[0]
        # Descent subtracts the gradient: only values that it would take further out are held.
        assert gradient.tolist() == [1.0 if sign > 0 else 0.0, -1.0 if sign < 0 else 0.0, *[float(sign)] * 6]


def test_a_shared_scale_follows_the_rows() -> None:
    made = table("int4/table")
    first = shared(made)
    with torch.no_grad():
        made.weight *= 10
    made.before_step(15)
    assert shared(made) == first
    made.before_step(16)
    assert shared(made)[0] == pytest.approx(10 * first[0], rel=0.05)
    found = made.rows(torch.arange(ROWS)).detach()
    assert (found - made.weight.detach()).abs().median() < 5 * first[0]


def test_rows_that_are_never_looked_up_have_no_say() -> None:
    unused = np.arange(0, ROWS, 3)
    made = table("int8/table", unused=unused)
    with torch.no_grad():
        made.weight[unused] = 1e6
    made.before_step(0)
    assert shared(made)[0] < 0.1


def test_scales_are_chosen_ever_more_rarely() -> None:
    due = [step for step in range(2000) if scale_is_due(step)]
    assert due[:6] == [0, 16, 32, 48, 72, 108]
    assert len(due) < 16


def test_a_row_that_the_format_cannot_hold_is_refused_by_name() -> None:
    made = table("fp16")
    with torch.no_grad():
        made.weight[7, 2] = 1e6
    with pytest.raises(ValueError, match=r"table t: .*fp16.*lower learning rate"):
        made.rows(torch.tensor([3, 7]))


def trained(out: Path, **options) -> None:
    config = TrainingConfig(batch_size=32, table_lr=0.1, num_threads=1, **options)
    train(tiny_model(banded=True), TinyLog(), config, out=out)


def test_the_artifact_serves_what_was_trained(tmp_path: Path) -> None:
    trained(tmp_path / "c", epochs=2)
    checkpoint, model = Checkpoint.open(tmp_path / "c"), load_model(tmp_path / "c")
    layouts = [one.layout for one in checkpoint.tables]
    plan = SimpleNamespace(layouts=layouts, to_dict=dict)
    pack(checkpoint, None, plan, tmp_path / "a")
    log = TinyLog(200, seed=4)
    served = Engine.open(tmp_path / "a", threads=1).predict(log.whole)
    np.testing.assert_allclose(served, predict(model, log), atol=2e-6)
    # Rounding is part of it: in float32 the rows say something else.
    exact = [
        layout.model_copy(
            update={
                "bands": tuple(
                    band if band.tt else band.model_copy(update={"format": "fp32", "scale": "row"})
                    for band in layout.bands
                )
            }
        )
        for layout in layouts
    ]
    pack(checkpoint, None, SimpleNamespace(layouts=exact, to_dict=dict), tmp_path / "exact")
    other = Engine.open(tmp_path / "exact", threads=1).predict(log.whole)
    assert np.abs(served - other).max() > 1e-3
    trained_scale = checkpoint.table(0)["band.3.scale"]
    np.testing.assert_array_equal(Artifact.open(tmp_path / "a").load_tables()["0.3.scale"], trained_scale)


def test_a_scale_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    model = tiny_model(banded=True)
    model.tables.table(0).bands[3]._scale[:] = (float("nan"), 0.0)
    from screc.training import save_model

    save_model(model, tmp_path / "c")
    layouts = [one.layout for one in Checkpoint.open(tmp_path / "c").tables]
    plan = SimpleNamespace(layouts=layouts, to_dict=dict)
    with pytest.raises(ValueError, match="table a, band 3: the scale nan"):
        pack(tmp_path / "c", None, plan, tmp_path / "a")


def test_interrupted_runs_choose_scales_when_they_would_have(tmp_path: Path) -> None:
    trained(tmp_path / "whole", epochs=2)
    trained(tmp_path / "parts", epochs=1)
    trained(tmp_path / "parts", epochs=2)
    for number in range(3):
        whole, parts = (Checkpoint.open(tmp_path / name).table(number) for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        for name in whole:
            np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)
