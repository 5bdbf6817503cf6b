"""One module per family of systems that SCRec is measured against.

A peer is built from the same weights as ours (:class:`Peer`), gets its input in the form it likes best before
the clock starts, and is compared with ours before anything is timed.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from screc.data import Batch


class Peer(Protocol):
    """A DLRM of another system."""

    def inputs(self, batch: Batch) -> Any:
        """The batch in this system's own form; not timed."""
        ...

    def predict(self, inputs: Any) -> torch.Tensor:
        """Probabilities, float32 [B]; this is timed."""
        ...


class AbsentError(RuntimeError):
    """A peer cannot run here; the message says what is missing."""
