from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_log import TinyLog, tiny_model

from screc.models import DLRM, DlrmConfig
from screc.storage import DamagedFileError
from screc.storage.checkpoint import Checkpoint
from screc.training import load_model, predict, save_model
from screc.training.checkpointing import load_optimizers, load_weights


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("banded", [False, True])
def test_round_trip(tmp_path: Path, banded: bool) -> None:
    model = tiny_model(1, banded=banded)
    assets = tmp_path / "encoder"
    assets.mkdir()
    (assets / "schema.json").write_text("{}")
    save_model(model, tmp_path / "out", training={"note": [1]}, assets=assets)
    loaded = load_model(tmp_path / "out")
    assert loaded.config == model.config
    assert loaded.tables.layouts == model.tables.layouts
    for (name, one), (other_name, other) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    log = TinyLog(50)
    np.testing.assert_array_equal(predict(model, log, 16), predict(loaded, log, 16))
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert checkpoint.training == {"note": [1]}
    assert (checkpoint.assets / "schema.json").read_text() == "{}"


def test_loaded_model_can_be_trained(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)  # memory-mapped weights would refuse or write to the file
    assert not torch.equal(loaded.tables.weight, load_model(tmp_path / "out").tables.weight)


@pytest.mark.parametrize("file", ["dense.safetensors", "tables/001.safetensors"])
def test_damage_is_found(tmp_path: Path, file: str) -> None:
    save_model(tiny_model(), tmp_path / "out")
    path = tmp_path / "out" / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=file):
        load_model(tmp_path / "out")


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        load_model(tmp_path)


def test_foreign_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="not ours to replace"):
        save_model(tiny_model(), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "out")
    checkpoint = Checkpoint.open(tmp_path / "out")
    with pytest.raises(ValueError, match=r"table 0 \(a\) differs in layout or pooling"):
        load_weights(tiny_model(banded=True), checkpoint)
    config = dataclasses.replace(tiny_model().config, top_mlp=(9, 1))
    with pytest.raises(ValueError, match="holds the model"):
        load_weights(DLRM.build(config, TinyLog.tables), checkpoint)
    with pytest.raises(ValueError, match="holds 3 tables, the model has 2"):
        load_weights(DLRM.build(tiny_model().config, TinyLog.tables[:2]), checkpoint)


def test_another_model_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DlrmConfig, "to_dict", lambda self: {"name": "deepfm"})
    save_model(tiny_model(), tmp_path / "out")
    with pytest.raises(
        ValueError, match="expected one of the names dlrm, wide_deep, dcn, mem_rec, got 'deepfm'"
    ):
        load_model(tmp_path / "out")


def test_missing_optimizer_state(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, tmp_path / "out")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"has no optimizer/dense.safetensors: it was saved without"):
        load_optimizers({"dense": optimizer}, Checkpoint.open(tmp_path / "out"))
