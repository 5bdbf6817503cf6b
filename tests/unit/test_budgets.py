"""The recipe of DRAM budgets, small: what it reports, and what a restart measures again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from recipes.synthetic_dlrm_budgets import Budgets, BudgetsConfig
from recipes.synthetic_dlrm_references import ReferencesConfig
from screc.models import DlrmConfig
from screc.planning import reference_system

SMALL = DlrmConfig(num_dense=13, embedding_dim=4, bottom_mlp=(4,), top_mlp=(4, 1))
DATA = ReferencesConfig(rows=3000, held_out_rows=1000, scale=0.0005, model=SMALL, bf16_matmul=False)


def test_budgets_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    config = BudgetsConfig(data=DATA, validation_rows=500, threads=1, max_tt_share=0.2)
    budgets = Budgets(config, tmp_path, Console(file=io.StringIO()), reference_system())
    budgets.run((0.3,))
    found = json.loads((tmp_path / "budgets.json").read_text())
    assert found.keys() == {"full", "0.3"}
    line = found["0.3"]
    assert line["dram_bytes"] <= 0.3 * 16 * sum(t.num_embeddings for t in DATA.log().tables)
    assert sum(line["formats"].values()) == pytest.approx(1.0)
    # The artifact serves what was trained.
    assert line["trained"]["auc"] == pytest.approx(line["trained"]["auc_in_torch"], abs=1e-4)
    assert "30%" in budgets.markdown()

    monkeypatch.setattr(Budgets, "_measure", lambda *_: pytest.fail("measured again"))
    Budgets(config, tmp_path, Console(file=io.StringIO()), reference_system()).run((0.3,))
