"""Times as people write them: 25ms, 1.5s."""

from __future__ import annotations

import math
import re

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)\s*(us|ms|s|m)")


def parse_seconds(text: str) -> float:
    """Seconds meant by ``25ms``, ``1.5s``, ``200us`` or ``2m``.

    Raises:
        ValueError: it is none of these, or not positive.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else math.nan
    if not seconds > 0:
        raise ValueError(f"{text!r} is not a time such as 25ms or 1.5s")
    return seconds
