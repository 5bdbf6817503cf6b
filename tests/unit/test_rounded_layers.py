"""Layers and gradients of few bits: grids, straight-through gradients, error compensation, resumption."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_training import CONFIG, same_result, signal_in_step
from tiny_log import TinyLog, tiny_model

from screc.training import TrainingConfig, train
from screc.training.rounded_layers import RoundedGradients, round_layers, rounded_channels, rounded_layers


def test_every_output_has_a_grid_of_its_own() -> None:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [10.0], [0.1], [3.0], [0.0]]
    )
    for bits in (2, 3, 4, 8):
        rounded, steps = rounded_channels(weight, bits)
        codes = rounded / steps
        torch.testing.assert_close(codes, codes.round())
        top = 2 ** (bits - 1) - 1
        assert codes.abs().amax() <= top + 1e-4
        assert ((rounded - weight).abs() <= steps / 2 + 1e-6).all()
        assert not rounded[4].any()


def test_the_gradient_passes_and_the_layers_end_rounded() -> None:
    model = tiny_model()
    rounded = rounded_layers(model, 4)
    assert set(rounded) == {name for name, _ in model.named_parameters() if not name.startswith("tables.")}
    sum(value.sum() for value in rounded.values()).backward()
    for name, parameter in model.named_parameters():
        if name in rounded:
            torch.testing.assert_close(parameter.grad, torch.ones_like(parameter))
    round_layers(model, 4)
    for name, value in rounded.items():
        torch.testing.assert_close(model.get_parameter(name), value)
    before = model.top[0].weight.clone()
    round_layers(model, 4)
    torch.testing.assert_close(model.top[0].weight, before)


def test_training_with_rounded_layers_learns_and_resumes(tmp_path: Path) -> None:
    """Errors that gradients still owe are part of a checkpoint."""
    config = dataclasses.replace(CONFIG, epochs=4, layer_bits=4, gradient_bits=8, log_every=1)
    whole, log = tiny_model(), TinyLog()
    report = train(whole, log, config, out=tmp_path / "whole", evaluation=log)
    assert report.evaluation is not None
    assert report.evaluation.auc > 0.6
    assert len(whole.top[0].weight[0].unique()) <= 15
    interrupted = train(tiny_model(), log, config, out=tmp_path / "part", progress=signal_in_step(30))
    assert interrupted.interrupted
    train(tiny_model(seed=5), log, config, out=tmp_path / "part")
    same_result(tmp_path / "part", tmp_path / "whole")


def test_what_rounding_leaves_over_comes_next_time() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    rounding = RoundedGradients([parameter])
    gradient = torch.tensor([[1.0, 0.003, -0.002], [0.0, 0.0, 0.0]])
    total = torch.zeros(2, 3)
    for _ in range(200):
        parameter.grad = gradient.clone()
        rounding.step()
        codes = parameter.grad[0] * 127 / parameter.grad[0].abs().amax()
        torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
        total += parameter.grad
    # Far below a step each time, but not lost.
    torch.testing.assert_close(total / 200, gradient, atol=1e-4, rtol=0)


def test_sparse_gradients_are_rounded_in_place() -> None:
    table = torch.nn.Parameter(torch.zeros(10, 4))
    torch.nn.functional.embedding(torch.tensor([2, 7]), table, sparse=True).mul(
        torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    ).sum().backward()
    before = table.grad.to_dense()
    RoundedGradients([table]).step()
    after = table.grad.to_dense()
    step = before.abs().amax() / 127
    assert (after - before).abs().amax() <= step / 2 + 1e-9
    torch.testing.assert_close(after / step, (after / step).round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "value"), [("layer_bits", 5), ("gradient_bits", 4)])
def test_bits_that_there_are_not(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of 0, .*got {value}"):
        TrainingConfig(**{name: value})
