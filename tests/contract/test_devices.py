"""Every compression method on an accelerator: the same rows and gradients as on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from method_contract import DIM, SPECS, batch, dense_gradients, step, zipf_counts

from screc.embeddings import METHODS, BudgetError, Method, make_method

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def smallest_of(name: str, ratio: float = 10) -> Method:
    """The method at a tenth of all rows, or as small as it can be."""
    try:
        return make_method(name, SPECS, DIM, ratio=ratio, counts=zipf_counts())
    except BudgetError as error:
        return make_method(name, SPECS, DIM, budget=error.smallest_bytes, counts=zipf_counts())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_device_gives_what_the_cpu_gives(name: str) -> None:
    here = smallest_of(name)
    there = copy.deepcopy(here).cuda()
    ids, offsets = batch(1)
    pooled, moved = here(ids, offsets), there(ids.cuda(), offsets.cuda())
    torch.testing.assert_close(moved.cpu(), pooled, rtol=1e-4, atol=1e-5)
    pooled.square().sum().backward()
    moved.square().sum().backward()
    for one, other in zip(dense_gradients(here), dense_gradients(there), strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_learns_there(name: str) -> None:
    method = smallest_of(name).cuda()
    for stage in method.stages:
        method.begin(stage)
        losses = [step(method, seed=number % 5) for number in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])
    method.finish()
    assert method.footprint().serving.total > 0
