"""Row formats in NumPy, written from docs/format.md: what the compiled codecs are compared with."""

from __future__ import annotations

import numpy as np

FORMATS = ("fp32", "fp16", "bf16", "int8", "int4")
LEVELS = {"int8": 255, "int4": 15}
# A format, and whether a band's rows share one scale.
CODECS = [(name, False) for name in FORMATS] + [(name, True) for name in LEVELS]


def encode(rows: np.ndarray, fmt: str, scale: tuple[float, float] | None = None) -> np.ndarray:
    """Encodes rows float32 [n, dim] as uint8 [n, row_bytes]."""
    if fmt == "fp32":
        return np.ascontiguousarray(rows).view(np.uint8)
    if fmt == "fp16":
        return rows.astype(np.float16).view(np.uint8)
    if fmt == "bf16":
        bits = rows.view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return rounded.astype(np.uint16).view(np.uint8)
    levels = LEVELS[fmt]
    if scale is None:
        low = rows.min(1) + np.float32(0)  # no -0
        with np.errstate(over="ignore"):
            bias = low.astype(np.float16)
            bias = np.where(bias > low, np.nextafter(bias, np.float16(-np.inf)), bias)
            wanted = (rows.max(1) + np.float32(0) - bias.astype(np.float32)) / np.float32(levels)
            step = wanted.astype(np.float16)
            step = np.where(step < wanted, np.nextafter(step, np.float16(np.inf)), step)
        header = np.stack([step, bias], 1).view(np.uint8)
        steps, biases = step.astype(np.float32)[:, None], bias.astype(np.float32)[:, None]
    else:
        header = np.empty((len(rows), 0), np.uint8)
        steps, biases = np.float32(scale[0]), np.float32(scale[1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        codes = np.rint(np.clip((rows - biases) / steps, 0, levels))
    codes = np.where(steps == 0, 0, codes).astype(np.uint8)
    if fmt == "int4":
        codes = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    return np.concatenate([header, codes], 1)


def decode(raw: np.ndarray, fmt: str, dim: int, scale: tuple[float, float] | None = None) -> np.ndarray:
    """Decodes uint8 [n, row_bytes] into float32 [n, dim]."""
    if fmt == "fp32":
        return raw.view(np.float32)
    if fmt == "fp16":
        return raw.view(np.float16).astype(np.float32)
    if fmt == "bf16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if scale is None:
        header = np.ascontiguousarray(raw[:, :4]).view(np.float16).astype(np.float64)
        steps, biases, raw = header[:, :1], header[:, 1:], raw[:, 4:]
    else:
        steps, biases = np.float64(np.float32(scale[0])), np.float64(np.float32(scale[1]))
    if fmt == "int4":
        raw = np.stack([raw & 15, raw >> 4], 2).reshape(len(raw), -1)[:, :dim]
    return (biases + steps * raw.astype(np.float64)).astype(np.float32)
