"""A training run for processes that are to be killed; imported once by the server that forks them."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_log import TinyLog, tiny_model

from screc.training import TrainingConfig, train

CONFIG = TrainingConfig(batch_size=32, num_threads=1, epochs=8, checkpoint_every_samples=64)


def run(out: Path) -> None:
    """Train to the end, or on to it."""
    torch.set_num_threads(1)
    train(tiny_model(banded=True), TinyLog(), CONFIG, out=out)
