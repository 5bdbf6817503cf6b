"""What dense layers may multiply in, and which of them gain by it on this host."""

from __future__ import annotations

from typing import Literal, get_args

from screc import _native

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Below this int8 gains nothing: what a layer costs is then writing its outputs. Tiles write them in less time
# from bf16, too.
_LEAST_INPUTS = 32
# So few outputs (the logit) are dot products of float32, which cost little and decide the prediction.
_MOST_DOTS = 4


def check_precision(where: str, precision: str) -> None:
    """Raise ``ValueError`` naming ``where`` unless ``precision`` is one."""
    if precision not in PRECISIONS:
        raise ValueError(f"{where}: precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")


def layer_precision(wanted: Precision, outputs: int, inputs: int) -> Precision:
    """The precision of a layer [outputs, inputs] in a model of the wanted one; layers that would gain nothing
    on this host stay float32."""
    if wanted == "fp32" or outputs <= _MOST_DOTS:
        return "fp32"
    if inputs < _LEAST_INPUTS:
        return "bf16" if _native.isa() == "amx" else "fp32"
    return wanted
