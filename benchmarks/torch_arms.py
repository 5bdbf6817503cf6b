"""The PyTorch and fbgemm peers as arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from rich.console import Console

from benchmarks.comparison import Arm
from benchmarks.peers import AbsentError, Peer
from benchmarks.peers.pytorch_eager import EagerDlrm
from benchmarks.peers.torch_quantized_bags import QuantizedBagDlrm
from benchmarks.workload import Layers, Workload

_COMPILE_FROM = 1024


class TorchArms:
    """Makes arms over one set of weights; a peer that is absent leaves a line instead.

    Args:
        workload: the model's shape.
        tables: float32 [rows, dim] each; read once for every arm.
        bottom, top: (weight [out, in], bias [out]) per layer.
        console: told of absent peers.
    """

    def __init__(
        self, workload: Workload, tables: Sequence[np.ndarray], bottom: Layers, top: Layers, console: Console
    ) -> None:
        self._workload, self._tables, self._console = workload, tables, console
        self._layers = (bottom, top)
        self.absent: dict[str, str] = {}

    def eager_fp32(self) -> list[Arm]:
        """Plain PyTorch."""
        return [_arm("eager_fp32", EagerDlrm(self._tables, *self._layers), ("eager_fp32",))]

    def eager_autocast(self) -> list[Arm]:
        """fp32 tables and weights, bfloat16 products by autocast."""
        peer = EagerDlrm(self._tables, *self._layers, autocast=True)
        return [_arm("eager_bf16_autocast", peer, ("eager_bf16",), precision="bf16")]

    def eager_bf16(self) -> list[Arm]:
        """Tables and weights in bfloat16."""
        peer = EagerDlrm(self._tables, *self._layers, dtype=torch.bfloat16)
        return [_arm("eager_bf16", peer, ("eager_bf16",), row_format="bf16", precision="bf16")]

    def compiled(self, name: str = "compile_fp32") -> list[Arm]:
        """torch.compile, on large batches."""

        def make(module: ModuleType) -> list[Arm]:
            peer = module.CompiledDlrm(self._tables, *self._layers)
            return [_arm(name, peer, ("compile",), smallest_batch=_COMPILE_FROM)]

        return self._optional("torch_compile", make)

    def bags(self, bits: int) -> list[Arm]:
        """torch's quantised bags, with MLPs in fp32 and in bf16."""
        peer = QuantizedBagDlrm(self._tables, *self._layers, bits=bits)
        kinds = {"row_format": f"int{bits}"}
        return [
            _arm(f"bags_int{bits}", peer, ("bags",), **kinds),
            _arm(
                f"bags_int{bits}_bf16", peer.with_layers(torch.bfloat16), ("bags",), precision="bf16", **kinds
            ),
        ]

    def tbe(self, row_format: str) -> list[Arm]:
        """fbgemm's table-batched embeddings, with MLPs in fp32 and in bf16."""

        def make(module: ModuleType) -> list[Arm]:
            workload = self._workload
            peer = module.TbeDlrm(
                workload.rows, workload.embedding_dim, self._tables, *self._layers, row_format=row_format
            )
            families = ("tbe", f"tbe_{row_format}")
            name, kinds = f"tbe_{row_format}", {"row_format": row_format}
            return [
                _arm(name, peer, families, **kinds),
                _arm(f"{name}_bf16", peer.with_layers(torch.bfloat16), families, precision="bf16", **kinds),
            ]

        return self._optional("fbgemm_tbe", make)

    def _optional(self, module: str, make: Callable[[ModuleType], list[Arm]]) -> list[Arm]:
        try:
            return make(import_module(f"benchmarks.peers.{module}"))
        except AbsentError as error:
            self.absent[module] = str(error)
            self._console.print(f"[yellow]left out:[/yellow] {module}: {error}")
            return []


def _arm(
    name: str,
    peer: Peer,
    families: tuple[str, ...],
    *,
    row_format: str = "fp32",
    precision: str = "fp32",
    smallest_batch: int = 1,
) -> Arm:
    return Arm(
        name=name,
        inputs=peer.inputs,
        predict=peer.predict,
        row_format=row_format,
        precision=precision,
        families=families,
        smallest_batch=smallest_batch,
    )
