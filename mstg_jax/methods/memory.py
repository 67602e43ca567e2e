"""Sampling within a limit of memory: in blocks as large as fit."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from mstg_jax.config import SettingsError
from mstg_jax.methods.base import Model, generation
from mstg_jax.methods.blocks import Size, fitting
from mstg_jax.methods.direct import Direct

log = logging.getLogger(__name__)
UNITS = {"MB": 2**20, "GB": 2**30}
MARGIN = 0.9
"""Share of the limit that is used: what the compiler counts is not all."""


def parse(text: str) -> int:
    """Bytes of "4GB" or "800MB". Raises SettingsError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB)", text.strip(), re.IGNORECASE)
    if found is None:
        raise SettingsError(f"--memory {text}: it needs a number and a unit, as in 4GB or 800MB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def within(limit: int, method: Direct, model: Model, size: Size, frames: int) -> Direct:
    """The method with blocks of volumes of this size (d h w) as large as the limit, in bytes,
    allows: of the process on a CPU, of the device elsewhere.

    Raises SettingsError if no block does.
    """
    allowed = MARGIN * limit - (_resident() if jax.default_backend() == "cpu" else 0)
    least = _least(method, size)
    block = fitting(method.block or method.direct.block, size)
    while True:
        own = replace(method, block=block)
        needed = _needed(own, model, size, frames)
        log.info(f"in blocks of {block}: {needed / 2**30:.2f} GB")
        if needed <= allowed:
            return own
        smaller = _smaller(block, least, allowed / needed)
        if smaller is None:
            raise SettingsError(
                f"--memory: blocks of {block}, the smallest there are, take "
                f"{needed / 2**30:.2f} GB beside what the program takes, "
                f"{(MARGIN * limit - allowed) / 2**30:.2f} GB; it needs more"
            )
        block = smaller


def _least(method: Direct, size: Size) -> Size:
    """Two voxels at the coarsest stage, which blocks are multiples of."""
    d, h, w = (min(2 * 2**n, s) for n, s in zip(method.halvings, size, strict=True))
    return d, h, w


def _smaller(block: Size, least: Size, share: float) -> Size | None:
    """Of at most this share of its voxels, the longest axis cut first."""
    now, wanted = list(block), share * np.prod(block)
    while np.prod(now) > wanted or tuple(now) == block:
        axis = max((i for i in range(3) if now[i] > least[i]), key=lambda i: now[i], default=None)
        if axis is None:
            return None if tuple(now) == block else (now[0], now[1], now[2])
        unit = max(1, least[axis] // 2)
        now[axis] = max(least[axis], (now[axis] - 1) // unit * unit)
    return now[0], now[1], now[2]


def _needed(method: Direct, model: Model, size: Size, frames: int) -> int:
    """Bytes that a program for one patient takes, as its compiler counts them."""
    compiled = generation(method, model, size, frames).compile()
    found = compiled.memory_analysis()
    if found is None:
        raise SettingsError("--memory: this device does not say what a program takes")
    return found.temp_size_in_bytes + found.output_size_in_bytes + found.argument_size_in_bytes


def _resident() -> int:
    """Of this process, bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux
        return 2**29
    return 4096 * pages
