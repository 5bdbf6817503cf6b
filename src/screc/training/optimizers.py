"""Optimisers: torch's for dense parameters, our own for tables whose gradients are sparse in rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

OptimizerName = Literal["sgd", "adagrad", "adam"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "adagrad", "adam")


class RowOptimizer(torch.optim.Optimizer):
    """Updates the rows that a sparse gradient touches and no others.

    torch's own optimisers go through general sparse arithmetic; these read and write whole rows, several
    times faster. Gradients of a row that was looked up more than once are summed first.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, **options: Any) -> None:
        super().__init__(parameters, {"lr": lr, **options})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient.

        Raises:
            TypeError: a gradient is dense.
        """
        if closure is not None:
            raise TypeError("closure: not supported by optimisers for sparse gradients")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not parameter.grad.is_sparse:
                    raise TypeError(
                        f"{type(self).__name__} takes sparse gradients, got a dense one of shape "
                        f"{list(parameter.grad.shape)}; give it to the dense optimiser"
                    )
                rows, values = _coalesced(parameter.grad)
                if rows.numel():
                    self._update(parameter, rows, values, self.state[parameter], group)

    @abstractmethod
    def _update(
        self, parameter: Tensor, rows: Tensor, values: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None: ...


class RowSgd(RowOptimizer):
    """Stochastic gradient descent; exactly dense SGD."""

    def _update(
        self, parameter: Tensor, rows: Tensor, values: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        _add_rows(parameter, rows, values * -group["lr"])


class RowAdagrad(RowOptimizer):
    """Adagrad (Duchi et al., 2011) with one accumulator per weight; exactly dense Adagrad.

    State: ``sum``, the sum of squared gradients, of the parameter's shape.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, *, eps: float = 1e-10) -> None:
        super().__init__(parameters, lr, eps=eps)

    def _update(
        self, parameter: Tensor, rows: Tensor, values: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if "sum" not in state:
            state["sum"] = torch.zeros_like(parameter)
        total = state["sum"].index_select(0, rows).addcmul_(values, values)
        state["sum"].index_copy_(0, rows, total)
        _add_rows(parameter, rows, (values * -group["lr"]).div_(total.sqrt_().add_(group["eps"])))


class RowAdam(RowOptimizer):
    """Lazy Adam: moments decay only when their row is looked up; equals :class:`torch.optim.SparseAdam`.

    State: ``exp_avg`` and ``exp_avg_sq`` of the parameter's shape, ``step``.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr, betas=betas, eps=eps)

    def _update(
        self, parameter: Tensor, rows: Tensor, values: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        first = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2)
        second.addcmul_(values, values, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        _add_rows(parameter, rows, first.mul_(-rate).div_(second.sqrt_().add_(group["eps"])))


def dense_optimizer(name: OptimizerName, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The optimiser for parameters with dense gradients.

    Raises:
        ValueError: ``name`` is unknown or ``lr`` is not positive.
    """
    _check(name, lr)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, fused=True)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr=lr, fused=True)
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def table_optimizer(name: OptimizerName, parameters: list[nn.Parameter], lr: float) -> RowOptimizer | None:
    """The optimiser for parameters with sparse gradients; None if there are none.

    Raises:
        ValueError: ``name`` is unknown or ``lr`` is not positive.
    """
    _check(name, lr)
    if not parameters:
        return None
    return {"sgd": RowSgd, "adagrad": RowAdagrad, "adam": RowAdam}[name](parameters, lr)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """The optimiser's state by name, ``{parameter}.{state}``, parameters in order of construction; views."""
    return {
        f"{place}.{key}": value.numpy()
        for place, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, np.ndarray]) -> None:
    """Put back (as copies) what :func:`optimizer_tensors` gave.

    Raises:
        ValueError: a name or a shape does not belong to this optimiser's parameters.
    """
    parameters = _parameters(optimizer)
    for parameter in parameters:
        optimizer.state[parameter] = {}
    for name, array in tensors.items():
        place, _, key = name.partition(".")
        if not place.isdecimal() or int(place) >= len(parameters) or not key:
            raise ValueError(f"optimiser state {name!r} belongs to none of {len(parameters)} parameters")
        parameter = parameters[int(place)]
        if array.ndim and array.shape != tuple(parameter.shape):
            raise ValueError(
                f"optimiser state {name!r} has shape {list(array.shape)}, "
                f"its parameter {list(parameter.shape)}"
            )
        optimizer.state[parameter][key] = torch.from_numpy(np.array(array))


def _coalesced(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n], each once, and their gradients [n, d]."""
    rows = gradient._indices()[0]
    # The tables' gradients come sorted and summed, but autograd drops the mark that says so when it stores
    # them; looking is far cheaper than summing again.
    if bool((rows[1:] > rows[:-1]).all()):
        return rows, gradient._values()
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()


def _add_rows(parameter: Tensor, rows: Tensor, values: Tensor) -> None:
    # Without alpha: with it, torch leaves its fast path and takes the rows one by one.
    parameter.index_add_(0, rows, values)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _check(name: str, lr: float) -> None:
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer: unknown {name!r}; choose one of {', '.join(OPTIMIZERS)}")
    if not lr > 0:
        raise ValueError(f"learning rate must be positive, got {lr}")
