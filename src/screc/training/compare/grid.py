"""What a comparison measures: settings that all cells share, and the cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from screc.data.log import ClickLog, open_log
from screc.data.part import LogPart
from screc.embeddings import METHODS
from screc.models import MODELS, ClickModel, DcnConfig, DlrmConfig, WideDeepConfig
from screc.models.click_model import ClickConfig

BASELINE = "full"  # trained once for every model and seed, at ratio 1
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all cells of a comparison share; results in one directory have one of it.

    Attributes:
        data: source of the training samples (:func:`screc.data.open_log`), with row ids.
        test: source of the samples that methods are compared on; None in a stream, which tests itself.
        validation: source of the samples for early stopping and searches; None takes the last tenth of
            ``data`` for it (in a stream: its first day, for searches).
        dim: length of a row.
        bottom: hidden widths of a DLRM's bottom MLP, where there are dense features.
        top: hidden widths of the layers after the tables.
        batch_size: samples per step.
        epochs: most passes over ``data``.
        patience: passes without a better AUC on the validation samples after which training stops.
        dense_lr, table_lr: learning rates of Adam for layers and Adagrad for rows.
        shuffle: samples shuffled together; 0 trains in the log's order.
        bf16: multiply matrices in bfloat16 while training.
        day_samples: not 0: ``data`` is a stream of days of so many samples, each tested before it is trained
            on; counts for methods that need them are those of the first day.
    """

    data: str
    test: str | None = None
    validation: str | None = None
    dim: int = 16
    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 256)
    batch_size: int = 2048
    epochs: int = 1
    patience: int = 2
    dense_lr: float = 1e-3
    table_lr: float = 0.02
    shuffle: int = 0
    bf16: bool = False
    day_samples: int = 0

    def __post_init__(self) -> None:
        for name in ("dim", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.day_samples < 0 or self.shuffle < 0:
            raise ValueError(
                f"day_samples and shuffle must not be negative, got {self.day_samples} and {self.shuffle}"
            )
        if self.day_samples:
            if self.test or self.epochs > 1 or self.shuffle:
                raise ValueError(
                    "day_samples: a stream is read once, in its order, and tested on its own next day; leave "
                    "test, epochs and shuffle out"
                )
        elif not self.test:
            raise ValueError("test: give the log that methods are compared on, or day_samples for a stream")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The inverse of :func:`dataclasses.asdict`, also after a way through JSON."""
        return cls(**values | {name: tuple(values[name]) for name in ("bottom", "top")})

    def logs(self) -> tuple[ClickLog, ClickLog, ClickLog | None]:
        """Samples to train on, to validate on and to test on (None in a stream).

        Raises:
            ValueError: a log's length is not known, it is too short, or the logs differ in their tables.
        """
        data = open_log(self.data)
        if data.num_samples is None:
            raise ValueError(f"data: {self.data} does not know its number of samples; write it to Parquet")
        if self.day_samples:
            if data.num_samples < 2 * self.day_samples:
                raise ValueError(
                    f"day_samples: {self.data} has {data.num_samples} samples, fewer than two days of "
                    f"{self.day_samples}"
                )
            return data, LogPart(data, 0, self.day_samples), None
        assert self.test is not None
        test = open_log(self.test)
        if self.validation:
            train, validation = data, open_log(self.validation)
        else:
            kept = data.num_samples - max(1, int(data.num_samples * _VALIDATION_SHARE))
            train, validation = LogPart(data, 0, kept), LogPart(data, kept)
        for name, log in (("test", test), ("validation", validation)):
            if [t.num_embeddings for t in log.tables] != [t.num_embeddings for t in data.tables]:
                raise ValueError(f"{name}: its tables are not those of data ({self.data})")
        return train, validation, test

    def model_config(self, model: str, num_dense: int) -> tuple[type[ClickModel], ClickConfig]:
        """Class and configuration of a model by its name."""
        if model == "dlrm":
            bottom = (*self.bottom, self.dim) if num_dense else ()
            return MODELS[model][0], DlrmConfig(
                num_dense=num_dense, embedding_dim=self.dim, bottom_mlp=bottom, top_mlp=(*self.top, 1)
            )
        kind = {"wide_deep": WideDeepConfig, "dcn": DcnConfig}[model]
        return MODELS[model][0], kind(num_dense=num_dense, embedding_dim=self.dim, deep_mlp=self.top)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training run.

    Attributes:
        model: one of :data:`screc.models.MODELS`.
        method: name of a method, with its options as in ``cafe:importance=frequency:decay=0.99``.
        ratio: bytes of all rows in float32 over the budget.
        seed: of weights, hashes and order.
    """

    model: str
    method: str
    ratio: float
    seed: int

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"models: unknown {self.model!r}; there are {', '.join(sorted(MODELS))}")
        name, _ = parse_method(self.method)
        if name not in METHODS:
            raise ValueError(f"methods: unknown {name!r}; there are {', '.join(sorted(METHODS))}")
        if not self.ratio > 0:
            raise ValueError(f"budgets: must be positive, got {self.ratio:g}; 100 is a hundredth of all rows")
        if self.seed < 0:
            raise ValueError(f"seeds: must not be negative, got {self.seed}")

    @property
    def key(self) -> str:
        """Its name as a file."""
        return f"{self.model}-{self.method.replace(':', '+')}-{self.ratio:g}x-s{self.seed}"


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of ``cafe:importance=frequency:decay=0.99``; options are numbers where they can be.

    Raises:
        ValueError: an option has no value.
    """
    name, *parts = text.split(":")
    options: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not key or not equals or not value or "/" in part:
            raise ValueError(f"methods: expected NAME:OPTION=VALUE, got {text!r}")
        options[key] = _number(value)
    return name, options


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Cells to measure.

    Attributes:
        settings: what they share.
        models, methods, budgets, seeds: every combination is a cell; ``full`` is added once a seed.
    """

    settings: Settings
    models: Sequence[str] = ("dlrm",)
    methods: Sequence[str] = ()
    budgets: Sequence[float] = (10, 100, 1000)
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        for name in ("models", "budgets", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name}: give at least one")
        if not self.methods:
            names = [name for name in sorted(METHODS) if name != BASELINE]
            object.__setattr__(self, "methods", tuple(names))

    def cells(self) -> Iterator[Cell]:
        """All cells, one seed after the other, so that a grid that is stopped early has whole columns."""
        for seed in self.seeds:
            for model in self.models:
                yield Cell(model=model, method=BASELINE, ratio=1.0, seed=seed)
                for ratio in self.budgets:
                    for method in self.methods:
                        if parse_method(method)[0] != BASELINE:
                            yield Cell(model=model, method=method, ratio=float(ratio), seed=seed)


def to_dict(value: Settings | Cell) -> dict[str, Any]:
    """JSON values of all fields."""
    fields = dataclasses.asdict(value)
    return {key: list(one) if isinstance(one, tuple) else one for key, one in fields.items()}
