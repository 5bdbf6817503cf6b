"""Training with rounded layers and rounded gradients (DQRM, arXiv 2410.20046, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from screc.embeddings.rounding import largest_code
from screc.models import ClickModel

LAYER_BITS = (0, 2, 3, 4, 8)
GRADIENT_BITS = (0, 8)


def rounded_channels(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A weight [out, in] on symmetric grids of so many bits, one for every output, and the steps [out, 1].

    One grid for the whole matrix loses accuracy or does not converge (DQRM, section 3.2).
    """
    steps = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / largest_code(bits)
    return (weight / steps).round() * steps, steps


def rounded_layers(model: ClickModel, bits: int) -> dict[str, Tensor]:
    """What layers outside the tables would be in so many bits, by the names of their parameters.

    The gradient passes the rounding unchanged. Biases have the steps of their outputs.
    """
    rounded: dict[str, Tensor] = {}
    for name, layer in _layers(model):
        weight, steps = rounded_channels(layer.weight.detach(), bits)
        rounded[f"{name}.weight"] = layer.weight + (weight - layer.weight).detach()
        if layer.bias is not None:
            grid = steps[:, 0]
            bias = (layer.bias / grid).round() * grid
            rounded[f"{name}.bias"] = layer.bias + (bias - layer.bias).detach()
    return rounded


@torch.no_grad()
def round_layers(model: ClickModel, bits: int) -> None:
    """Round the layers outside the tables in place, as :func:`rounded_layers` does."""
    own = dict(model.named_parameters())
    for name, value in rounded_layers(model, bits).items():
        own[name].copy_(value)


def _layers(model: ClickModel) -> Iterable[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith("tables."):
            yield name, module


class RoundedGradients(torch.optim.Optimizer):
    """Rounds gradients to 8 bits before the optimisers see them, as they would be sent between machines.

    A step is shared by an output of a matrix, by a vector, and by all rows of a gradient that is sparse. What
    rounding a dense gradient leaves over is added to the next one (error compensation); sparse gradients go
    without. Its step comes before those of the optimisers.

    State: ``error``, of the shape of a dense parameter.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bits: int = 8) -> None:
        super().__init__(parameters, {"bits": bits})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Round all gradients in place."""
        if closure is not None:
            raise TypeError("closure: not supported, this only rounds gradients")
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    values = gradient._values()
                    values.copy_(_rounded(values, group["bits"]))
                    continue
                state = self.state[parameter]
                if "error" in state:
                    gradient += state["error"]
                whole = gradient.clone()
                gradient.copy_(_rounded(gradient, group["bits"], by_row=gradient.dim() == 2))
                state["error"] = whole.sub_(gradient)


def _rounded(values: Tensor, bits: int, *, by_row: bool = False) -> Tensor:
    if not values.numel():
        return values
    largest = values.abs().amax(dim=1, keepdim=True) if by_row else values.abs().amax()
    step = largest.clamp(min=1e-30) / largest_code(bits)
    return (values / step).round() * step
