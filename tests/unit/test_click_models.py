"""Wide & Deep and Deep & Cross against their formulas, and in training and checkpoints as DLRM is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_dlrm import SPECS, inputs
from test_training import CONFIG
from tiny_log import TinyLog, tiny_model

from screc.embeddings import EmbeddingCollection, make_method
from screc.models import MODELS, ClickModel, Dcn, DcnConfig, WideDeep, WideDeepConfig
from screc.storage.layout import TableLayout
from screc.training import evaluate, load_model, train

SMALL = {
    "wide_deep": (WideDeep, WideDeepConfig(num_dense=4, embedding_dim=8, deep_mlp=(12, 6))),
    "dcn": (Dcn, DcnConfig(num_dense=4, embedding_dim=8, num_crosses=2, deep_mlp=(12, 6))),
}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def small(name: str) -> ClickModel:
    model, config = SMALL[name]
    layouts = [TableLayout.dense(spec.name, spec.num_embeddings, 8) for spec in SPECS]
    tables = EmbeddingCollection(layouts, [spec.pooling for spec in SPECS], generator=seeded())
    return model(config, tables, generator=seeded())


def joined_inputs(model: ClickModel) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Inputs of the first layers and all weights, float64."""
    dense, ids, offsets = inputs()
    features = model.tables(ids, offsets).detach().flatten(1)
    weights = {name: t.detach().numpy().astype(np.float64) for name, t in model.dense_tensors().items()}
    return torch.cat([dense, features], dim=1).numpy().astype(np.float64), weights


def test_wide_and_deep_is_its_formula() -> None:
    model = small("wide_deep")
    x, w = joined_inputs(model)
    hidden = np.maximum(x @ w["deep.0.weight"].T + w["deep.0.bias"], 0)
    hidden = np.maximum(hidden @ w["deep.1.weight"].T + w["deep.1.bias"], 0)
    expected = (
        hidden @ w["deep.2.weight"][0] + w["deep.2.bias"] + x[:, :4] @ w["wide.weight"][0] + w["wide.bias"]
    )
    np.testing.assert_allclose(model(*inputs()).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_deep_and_cross_is_its_formula() -> None:
    model = small("dcn")
    x, w = joined_inputs(model)
    crossed = x
    for layer in range(2):
        crossed = x * (crossed @ w["cross_weights"][layer])[:, None] + w["cross_biases"][layer] + crossed
    hidden = np.maximum(x @ w["deep.0.weight"].T + w["deep.0.bias"], 0)
    hidden = np.maximum(hidden @ w["deep.1.weight"].T + w["deep.1.bias"], 0)
    expected = np.concatenate([crossed, hidden], axis=1) @ w["top.weight"][0] + w["top.bias"]
    np.testing.assert_allclose(model(*inputs()).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("method", [None, "hash"])
def test_it_trains_and_comes_back_from_its_checkpoint(tmp_path: Path, name: str, method: str | None) -> None:
    log, dlrm = TinyLog(4000), tiny_model()
    model_class, config = SMALL[name]
    config = dataclasses.replace(config, num_dense=log.num_dense, embedding_dim=dlrm.config.embedding_dim)
    tables = dlrm.tables
    if method:
        tables = make_method(method, dlrm.table_specs, config.embedding_dim, ratio=1.5)
    model = model_class(config, tables, generator=seeded())
    report = train(model, log, dataclasses.replace(CONFIG, epochs=3), out=tmp_path / "out", evaluation=log)
    assert report.evaluation is not None
    assert report.evaluation.auc > 0.7
    loaded = load_model(tmp_path / "out")
    assert type(loaded) is model_class
    assert loaded.config == config
    assert evaluate(loaded, log).auc == pytest.approx(report.evaluation.auc, abs=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_without_dense_features(name: str) -> None:
    model_class, config = SMALL[name]
    layouts = [TableLayout.dense(spec.name, spec.num_embeddings, 8) for spec in SPECS]
    tables = EmbeddingCollection(layouts, [spec.pooling for spec in SPECS])
    model = model_class(dataclasses.replace(config, num_dense=0), tables, generator=seeded())
    dense, ids, offsets = inputs(num_dense=0)
    assert model(dense, ids, offsets).shape == (5,)


@pytest.mark.parametrize("name", MODELS)
def test_configurations_go_to_json_and_back(name: str) -> None:
    _, config_class = MODELS[name]
    fields = {"bottom_mlp": (8, 16)} if name in ("dlrm", "mem_rec") else {"deep_mlp": (5,)}
    config = config_class(num_dense=3, **fields)
    assert config_class.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="expected the fields"):
        config_class.from_dict({"name": name})
    with pytest.raises(ValueError, match=f"expected the name '{name}', got 'x'"):
        config_class.from_dict({"name": "x"})


def test_bad_widths_are_named() -> None:
    with pytest.raises(ValueError, match=r"widths at least 1, got 3, 16 and \[0\]"):
        WideDeepConfig(num_dense=3, deep_mlp=(0,))
    with pytest.raises(ValueError, match="deep_mlp: widths must be positive and not empty"):
        DcnConfig(num_dense=3, deep_mlp=())
    with pytest.raises(ValueError, match="num_crosses must be at least 0"):
        DcnConfig(num_dense=3, num_crosses=-1)
