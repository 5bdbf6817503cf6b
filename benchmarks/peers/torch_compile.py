"""The eager DLRM through ``torch.compile``: inductor's CPU code with the weights frozen into it.

Needs a C++ compiler. It is compiled anew for every batch size (tens of seconds), and below a thousand samples
it was slower than eager wherever it was measured, so jobs only run it on large batches.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import numpy as np
import torch

from benchmarks.peers import AbsentError
from benchmarks.peers.pytorch_eager import EagerDlrm
from benchmarks.peers.torch_dense import Bags, per_table_inputs
from benchmarks.workload import Layers


class CompiledDlrm:
    """DLRM over given weights, compiled at the first call of each batch size.

    Args:
        tables: float32 [rows, dim] each; shared.
        bottom, top: (weight [out, in], bias [out]) per layer.

    Raises:
        AbsentError: there is no C++ compiler.
    """

    def __init__(self, tables: Iterable[np.ndarray], bottom: Layers, top: Layers) -> None:
        if shutil.which("g++") is None:
            raise AbsentError("torch.compile needs g++: apt-get install g++")
        eager = EagerDlrm(tables, bottom, top).eval()
        self._compiled = torch.compile(eager, dynamic=False, options={"freezing": True})

    inputs = staticmethod(per_table_inputs)

    # Not inference_mode: freezing wants parameters that it may look at.
    @torch.no_grad()
    def predict(self, inputs: tuple[torch.Tensor, Bags]) -> torch.Tensor:
        """Probabilities [B]."""
        return self._compiled(*inputs)
