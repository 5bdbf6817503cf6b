"""Models to and from checkpoints (docs/format.md), with the optimisers' state where training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from screc.embeddings import EmbeddingCollection, Method
from screc.models import MODELS, ClickModel
from screc.storage.checkpoint import Checkpoint, StoredTable, write_checkpoint
from screc.storage.layout import TableLayout
from screc.storage.tensors import TensorFile, write_arrays
from screc.training.optimizers import load_optimizer_tensors, optimizer_tensors

METHOD_FILE = "method.safetensors"

Optimizers = Mapping[str, torch.optim.Optimizer]


def save_model(
    model: ClickModel,
    path: Path,
    *,
    training: dict[str, Any] | None = None,
    assets: Path | None = None,
    optimizers: Optimizers | None = None,
) -> None:
    """Write a checkpoint, atomically.

    Of a model whose tables a method compresses it holds every row as look-ups give it, and the method's own
    state for training to go on.

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
        table_tensors=lambda index: _table_tensors(model, index),
        training=training or {},
        assets=assets,
        extra=_method_writer(model)
        | {_state_file(name): _writer(one) for name, one in (optimizers or {}).items()},
    )


def stored_tables(model: ClickModel) -> tuple[StoredTable, ...]:
    """The tables of a model as a checkpoint describes them."""
    tables = model.tables
    if isinstance(tables, Method):
        layouts = [TableLayout.dense(s.name, s.num_embeddings, tables.embedding_dim) for s in tables.specs]
    else:
        layouts = list(tables.layouts)
    return tuple(
        StoredTable(layout=layout, pooling=spec.pooling)
        for layout, spec in zip(layouts, tables.specs, strict=True)
    )


def _table_tensors(model: ClickModel, index: int) -> Mapping[str, np.ndarray]:
    if not isinstance(model.tables, Method):
        return model.tables.table(index).tensors()
    with torch.no_grad():
        return {"band.0.rows": model.tables.every_row(index).cpu().numpy()}


def _method_writer(model: ClickModel) -> dict[str, Callable[[Path], None]]:
    if not isinstance(model.tables, Method):
        return {}
    state = {name: np.ascontiguousarray(t.cpu().numpy()) for name, t in model.tables.state_dict().items()}

    def write(path: Path) -> None:
        write_arrays(path, state)

    return {METHOD_FILE: write}


def _load_method(method: Method, checkpoint: Checkpoint) -> None:
    if all(entry.path != METHOD_FILE for entry in checkpoint.files):
        raise ValueError(
            f"{checkpoint.path} holds no state of a compression method, the model's tables are of "
            f"{method.name!r}; choose another directory or start anew with resume=False"
        )
    checkpoint.check(METHOD_FILE)
    stored = TensorFile(checkpoint.path / METHOD_FILE)
    try:
        method.load_state_dict({name: torch.from_numpy(np.array(stored[name])) for name in stored.names})
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint.path}: {METHOD_FILE} is of another method or budget ({error})"
        ) from None


def load_model(path: Path | str) -> ClickModel:
    """The model of a checkpoint; every file that is read is compared with its checksum.

    Raises:
        FileNotFoundError: there is no checkpoint at ``path``.
        ValueError: it is damaged, of another version, or of a model that this release does not know.
    """
    checkpoint = Checkpoint.open(path)
    name = checkpoint.model.get("name")
    if name not in MODELS:
        raise ValueError(f"model: expected one of the names {', '.join(MODELS)}, got {name!r}")
    model_class, config_class = MODELS[name]
    config = config_class.from_dict(checkpoint.model)
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
    model = model_class(config, tables)
    load_weights(model, checkpoint)
    return model


def load_weights(model: ClickModel, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model of the same shape.

    Raises:
        ValueError: the model differs from the checkpoint's, or a file is damaged; the message names which.
        ReplacedError: another checkpoint has taken this one's place.
    """
    checkpoint.unreplaced(lambda: _load_weights(model, checkpoint))


def _load_weights(model: ClickModel, checkpoint: Checkpoint) -> None:
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
    if isinstance(model.tables, EmbeddingCollection):
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
    if isinstance(model.tables, Method):
        _load_method(model.tables, checkpoint)
        return
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
