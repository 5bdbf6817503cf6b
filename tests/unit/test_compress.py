"""Compression in the place of the EmbeddingBags of a model that knows nothing of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import screc
from screc.embeddings import BudgetError, CompressedBag, methods_of


class TwoTowers(nn.Module):
    """A stranger's model: tables of two dimensions, in several places, called in several ways."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.user = nn.EmbeddingBag(500, 8, mode="sum", **options)
        self.items = nn.ModuleList(
            [
                nn.EmbeddingBag(400, 8, mode="mean", include_last_offset=True),
                nn.EmbeddingBag(90, 4, mode="sum"),
            ]
        )
        self.top = nn.Linear(20, 1)

    def forward(self, users: Tensor, history: Tensor, offsets: Tensor, words: Tensor) -> Tensor:
        parts = [self.user(users), self.items[0](history, offsets), self.items[1](words)]
        return self.top(torch.cat(parts, dim=1))[:, 0]


def inputs(size: int = 6) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    offsets = torch.arange(0, 3 * size + 1, 3)
    return (
        torch.randint(0, 500, (size, 2), generator=generator),
        torch.randint(0, 400, (3 * size,), generator=generator),
        offsets,
        torch.randint(0, 90, (size, 1), generator=generator),
    )


@pytest.mark.parametrize("method", ["hash", "qr"])
def test_any_model_trains_with_any_optimiser(method: str) -> None:
    torch.manual_seed(0)
    model = screc.compress(TwoTowers(), method, 3)
    assert [type(m) for m in model.modules()].count(CompressedBag) == 3
    assert not any(isinstance(m, nn.EmbeddingBag) for m in model.modules())
    assert len(methods_of(model)) == 2  # one for each dimension
    whole = 4 * (500 * 8 + 400 * 8 + 90 * 4)
    assert sum(m.footprint().serving.total for m in methods_of(model)) <= whole / 3
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    target, losses = torch.randn(6), []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (model(*inputs()) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    again = screc.compress(TwoTowers(), method, 3, seed=5)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(*inputs()), model(*inputs()))


def test_a_budget_that_keeps_all_rows_changes_no_answer() -> None:
    model, reference = TwoTowers(), TwoTowers()
    reference.load_state_dict(model.state_dict())
    screc.compress(model, "hash", 1.0)
    for place, bag in (
        ("user", reference.user),
        ("items.0", reference.items[0]),
        ("items.1", reference.items[1]),
    ):
        compressed = model.get_submodule(place)
        with torch.no_grad():
            bag.weight.copy_(compressed.method.every_row(compressed.table))
    torch.testing.assert_close(model(*inputs()), reference(*inputs()))


def test_padding_offsets_and_weights_are_those_of_embedding_bag() -> None:
    bag = nn.EmbeddingBag(50, 4, mode="sum", padding_idx=3)
    model = screc.compress(nn.Sequential(bag), "hash", 1.0)
    with torch.no_grad():
        bag.weight.copy_(model[0].method.every_row(0))
    ids, offsets = torch.tensor([3, 1, 1, 3, 9]), torch.tensor([0, 1, 1, 4])
    torch.testing.assert_close(model[0](ids, offsets), bag(ids, offsets))
    weights = torch.tensor([1.0, 2.0, -1.0, 5.0, 0.5])
    torch.testing.assert_close(model[0](ids, offsets, weights), bag(ids, offsets, per_sample_weights=weights))
    pairs = torch.tensor([[3, 3], [1, 3], [7, 8]])
    torch.testing.assert_close(model[0](pairs), bag(pairs))
    torch.testing.assert_close(model[0](pairs[:, :0]), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="offsets: must be None"):
        model[0](pairs, offsets)
    with pytest.raises(ValueError, match="offsets: needed"):
        model[0](ids)


def test_what_cannot_be_compressed_is_named() -> None:
    with pytest.raises(ValueError, match=r"no torch\.nn\.EmbeddingBag"):
        screc.compress(nn.Linear(2, 2), "hash", 10)
    with pytest.raises(ValueError, match="clicks: mode is 'max'"):
        screc.compress(nn.ModuleDict({"clicks": nn.EmbeddingBag(5, 2, mode="max")}), "hash", 10)
    with pytest.raises(ValueError, match="user: max_norm is 1"):
        screc.compress(TwoTowers(max_norm=1.0), "hash", 10)
    with pytest.raises(KeyError, match=r"unknown 'zip'; there are .*hash"):
        screc.compress(TwoTowers(), "zip", 10)
    with pytest.raises(ValueError, match="budget must be positive"):
        screc.compress(TwoTowers(), "hash", 0)
    with pytest.raises(BudgetError, match="smallest budget"):
        screc.compress(TwoTowers(), "qr", 400)
