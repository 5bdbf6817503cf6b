from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from screc.data.log import TableSpec
from screc.embeddings import EmbeddingCollection
from screc.models import DLRM, DlrmConfig
from screc.storage.layout import TableLayout

SPECS = (TableSpec("a", 20, "sum"), TableSpec("b", 7, "mean"), TableSpec("c", 3, "sum"))


def config(**changes: object) -> DlrmConfig:
    fields: dict = {"num_dense": 4, "embedding_dim": 8, "bottom_mlp": (16, 8), "top_mlp": (12, 1)}
    return DlrmConfig(**(fields | changes))


def inputs(size: int = 5, num_dense: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, size=3 * size)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    ids = np.concatenate(
        [
            rng.integers(0, s.num_embeddings, n.sum())
            for s, n in zip(SPECS, lengths.reshape(3, size), strict=True)
        ]
    )
    dense = rng.normal(size=(size, num_dense)).astype(np.float32)
    return torch.from_numpy(dense), torch.from_numpy(ids), torch.from_numpy(offsets)


def reference(model: DLRM, dense: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> np.ndarray:
    """The forward pass of one sample after another in float64, straight from the contract."""
    weights = {k: t.detach().numpy().astype(np.float64) for k, t in model.dense_tensors().items()}
    tables = [model.tables.table(t).weight.detach().numpy().astype(np.float64) for t in range(3)]
    size, logits = dense.shape[0], []
    for b in range(size):
        features = []
        if model.config.num_dense:
            x = dense[b].numpy().astype(np.float64)
            for i in range(len(model.config.bottom_mlp)):
                x = np.maximum(weights[f"bottom.{i}.weight"] @ x + weights[f"bottom.{i}.bias"], 0)
            features.append(x)
        for t, spec in enumerate(SPECS):
            bag = tables[t][ids[offsets[t * size + b] : offsets[t * size + b + 1]].numpy()]
            pooled = bag.sum(axis=0)
            features.append(pooled / max(1, len(bag)) if spec.pooling == "mean" else pooled)
        if model.config.interaction == "cat":
            z = np.concatenate(features)
        else:
            pairs = [features[i] @ features[j] for i in range(len(features)) for j in range(i)]
            z = np.concatenate([features[0] if model.config.num_dense else [], pairs])
        last = len(model.config.top_mlp) - 1
        for i in range(last + 1):
            z = weights[f"top.{i}.weight"] @ z + weights[f"top.{i}.bias"]
            z = np.maximum(z, 0) if i < last else z
        logits.append(z[0])
    return np.array(logits)


@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("num_dense", [4, 0])
def test_forward_equals_the_definition(interaction: str, num_dense: int) -> None:
    torch.set_num_threads(1)
    changes = {} if num_dense else {"num_dense": 0, "bottom_mlp": ()}
    model = DLRM.build(config(interaction=interaction, **changes), SPECS, seed=3, init_std=0.5)
    batch = inputs(num_dense=num_dense)
    logits = model(*batch)
    assert logits.shape == (5,)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.detach().numpy(), reference(model, *batch), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    model = DLRM.build(config(), SPECS, init_std=0.5)
    model(*inputs()).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    driven = [*model.dense_parameters(), *model.sparse_parameters()]
    assert {id(p) for p in driven} == {id(p) for p in model.parameters()}


def test_dense_tensors_have_the_names_and_shapes_of_the_format() -> None:
    model = DLRM.build(config(), SPECS)
    shapes = {name: list(tensor.shape) for name, tensor in model.dense_tensors().items()}
    assert shapes == {
        "bottom.0.weight": [16, 4],
        "bottom.0.bias": [16],
        "bottom.1.weight": [8, 16],
        "bottom.1.bias": [8],
        "top.0.weight": [12, 8 + 6],
        "top.0.bias": [12],
        "top.1.weight": [1, 12],
        "top.1.bias": [1],
    }


def test_initialisation_follows_the_reference() -> None:
    model = DLRM.build(config(bottom_mlp=(600, 8), num_dense=400), SPECS)
    tensors = model.dense_tensors()
    assert tensors["bottom.0.weight"].std().item() == pytest.approx(math.sqrt(2 / 1000), rel=0.02)
    assert tensors["bottom.0.bias"].std().item() == pytest.approx(math.sqrt(1 / 600), rel=0.15)


def test_seed_decides_the_weights() -> None:
    one, same, other = (DLRM.build(config(), SPECS, seed=s) for s in (1, 1, 2))
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.tables.weight, other.tables.weight)


def test_model_dict_round_trip() -> None:
    model = DLRM.build(config(), SPECS)
    description = model.model_dict()
    assert description == {
        "name": "dlrm",
        "num_dense": 4,
        "embedding_dim": 8,
        "bottom_mlp": [16, 8],
        "top_mlp": [12, 1],
        "interaction": "dot",
    }
    assert DlrmConfig.from_dict(description) == model.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_dense": -1}, "num_dense must be at least 0"),
        ({"num_dense": 0}, r"bottom_mlp must be empty when num_dense is 0, got \[16, 8\]"),
        ({"bottom_mlp": (16, 4)}, r"bottom_mlp must end with embedding_dim \(8\), got \[16, 4\]"),
        ({"bottom_mlp": ()}, "bottom_mlp must end with embedding_dim"),
        ({"top_mlp": (16,)}, r"top_mlp must end with 1, the logit, got \[16\]"),
        ({"top_mlp": (0, 1)}, r"top_mlp: widths must be positive, got \[0, 1\]"),
        ({"interaction": "sum"}, "interaction must be 'dot' or 'cat', got 'sum'"),
    ],
)
def test_bad_configuration(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_bad_model_entry() -> None:
    with pytest.raises(ValueError, match="expected the name 'dlrm', got 'dcn'"):
        DlrmConfig.from_dict({"name": "dcn"})
    with pytest.raises(ValueError, match="model: expected the fields"):
        DlrmConfig.from_dict({**config().to_dict(), "depth": 3})


def test_tables_must_fit() -> None:
    with pytest.raises(ValueError, match="embedding_dim is 8 in the configuration, 4 in the tables"):
        DLRM(config(), EmbeddingCollection([TableLayout.dense("a", 3, 4)], ["sum"]))
    with pytest.raises(ValueError, match="no pair to interact; use 'cat'"):
        DLRM.build(config(num_dense=0, bottom_mlp=()), SPECS[:1])
    with pytest.raises(ValueError, match="table a has 20 rows, its layout 5"):
        DLRM.build(config(), SPECS[:1], layouts=[TableLayout.dense("a", 5, 8)])
    with pytest.raises(ValueError, match="layouts: expected 1, one per table, got 0"):
        DLRM.build(config(), SPECS[:1], layouts=[])
