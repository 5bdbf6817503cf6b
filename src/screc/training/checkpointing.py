"""Models to and from checkpoints (docs/format.md), with the optimisers' state where training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from screc.embeddings import EmbeddingCollection
from screc.models.dlrm import DLRM, DlrmConfig
from screc.storage.checkpoint import Checkpoint, StoredTable, write_checkpoint
from screc.storage.tensors import TensorFile, write_arrays
from screc.training.optimizers import load_optimizer_tensors, optimizer_tensors

Optimizers = Mapping[str, torch.optim.Optimizer]


def save_model(
    model: DLRM,
    path: Path,
    *,
    training: dict[str, Any] | None = None,
    assets: Path | None = None,
    optimizers: Optimizers | None = None,
) -> None:
    """Write a checkpoint, atomically.

    Args:
        model: the model.
        path: the directory; an older checkpoint there is replaced.
        training: JSON values that training records about itself.
        assets: a directory that is copied to ``assets/`` (the feature encoder).
        optimizers: by name; their state goes to ``optimizer/{name}.safetensors``.

    Raises:
        FileExistsError: ``path`` holds something other than a checkpoint.
        OSError: the disk is full; the old checkpoint is unchanged.
    """
    write_checkpoint(
        path,
        model=model.model_dict(),
        tables=stored_tables(model),
        dense={name: tensor.detach().numpy() for name, tensor in model.dense_tensors().items()},
        table_tensors=lambda index: model.tables.table(index).tensors(),
        training=training or {},
        assets=assets,
        extra={_state_file(name): _writer(one) for name, one in (optimizers or {}).items()},
    )


def stored_tables(model: DLRM) -> tuple[StoredTable, ...]:
    """The tables of a model as a checkpoint describes them."""
    tables = model.tables
    return tuple(
        StoredTable(layout=layout, pooling=pooling)
        for layout, pooling in zip(tables.layouts, tables.pooling, strict=True)
    )


def load_model(path: Path | str) -> DLRM:
    """The model of a checkpoint; every file that is read is compared with its checksum.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        ValueError: it is damaged, of another version, or of another model than a DLRM.
    """
    checkpoint = Checkpoint.open(path)
    config = DlrmConfig.from_dict(checkpoint.model)
    band_ids = {}
    for index, stored in enumerate(checkpoint.tables):
        if stored.known_rows is not None:
            raise ValueError(
                f"{checkpoint.path}: table {stored.layout.table} is sparse ({stored.known_rows} of "
                f"{stored.layout.num_embeddings} rows are known); it can be packed and served, not trained"
            )
        indexed = len(stored.layout.bands) - 1
        if indexed:
            tensors = checkpoint.table(index)
            band_ids[index] = [np.array(tensors[f"band.{band}.ids"]) for band in range(indexed)]
    tables = EmbeddingCollection(
        [stored.layout for stored in checkpoint.tables],
        [stored.pooling for stored in checkpoint.tables],
        band_ids=band_ids,
        init_std=None,
    )
    model = DLRM(config, tables)
    load_weights(model, checkpoint)
    return model


def load_weights(model: DLRM, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model of the same shape.

    Raises:
        ValueError: the model differs from the checkpoint's, or a file is damaged; the message names which.
        ReplacedError: another checkpoint has taken this one's place.
    """
    checkpoint.unreplaced(lambda: _load_weights(model, checkpoint))


def _load_weights(model: DLRM, checkpoint: Checkpoint) -> None:
    if checkpoint.model != model.model_dict():
        raise ValueError(
            f"{checkpoint.path} holds the model {checkpoint.model}, expected {model.model_dict()}; "
            "choose another directory or the checkpoint's own configuration"
        )
    expected = stored_tables(model)
    if len(checkpoint.tables) != len(expected):
        raise ValueError(
            f"{checkpoint.path} holds {len(checkpoint.tables)} tables, the model has {len(expected)}"
        )
    for index, (stored, own) in enumerate(zip(checkpoint.tables, expected, strict=True)):
        if stored != own:
            raise ValueError(
                f"{checkpoint.path}: table {index} ({own.layout.table}) differs in layout or pooling "
                "from the model's"
            )
    for entry in checkpoint.files:
        if entry.path.startswith("tables/"):
            checkpoint.check(entry.path)
    dense = checkpoint.dense()
    for name, tensor in model.dense_tensors().items():
        if name not in dense or dense[name].shape != tuple(tensor.shape):
            found = list(dense[name].shape) if name in dense else "nothing"
            raise ValueError(
                f"{checkpoint.path}: weight {name!r} has shape {found}, expected {list(tensor.shape)}"
            )
        np.copyto(tensor.detach().numpy(), dense[name])
    for index in range(len(expected)):
        model.tables.table(index).load(checkpoint.table(index))


def load_optimizers(optimizers: Optimizers, checkpoint: Checkpoint) -> None:
    """Put the state that :func:`save_model` wrote back into the optimisers.

    Raises:
        ValueError: the checkpoint has no state for one of them, or it does not fit.
    """
    listed = {entry.path for entry in checkpoint.files}
    for name, optimizer in optimizers.items():
        file = _state_file(name)
        if file not in listed:
            raise ValueError(
                f"{checkpoint.path} has no {file}: it was saved without optimiser state and cannot be "
                "trained on; start anew with resume=False"
            )
        checkpoint.check(file)
        stored = TensorFile(checkpoint.path / file)
        load_optimizer_tensors(optimizer, {key: stored[key] for key in stored.names})


def _state_file(name: str) -> str:
    return f"optimizer/{name}.safetensors"


def _writer(optimizer: torch.optim.Optimizer) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_arrays(path, optimizer_tensors(optimizer))

    return write
