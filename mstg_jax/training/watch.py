"""The numbers of a run's steps, asked of the device as late as they may be."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from mstg_jax.config import UserError

Metrics = dict[str, Float[jax.Array, ""]]


class Taken(NamedTuple):
    step: int
    metrics: Metrics
    patients: Sequence[str]


class Watch:
    """Of every step whether it is finite, one step late, and of some all numbers.

    Raises UserError at a loss or gradient that is not, with the step, its patients and what
    `last_good` says: the newest checkpoint.
    """

    def __init__(self, last_good: Callable[[], Path | str]):
        self.loss = float("nan")
        """Of the newest step that is known."""
        self._last_good = last_good
        self._newest: Taken | None = None

    def add(self, step: int, metrics: Metrics, patients: Sequence[str]) -> None:
        """A step that may still be under way; waits for the one before."""
        before, self._newest = self._newest, Taken(step, metrics, patients)
        if before is not None:
            self._check(before)

    def values(self) -> dict[str, float]:
        """All numbers of the newest step; waits for it."""
        if self._newest is None:
            raise RuntimeError("no step has been added")
        self._check(self._newest)
        return {name: float(x) for name, x in jax.device_get(self._newest.metrics).items()}

    def _check(self, taken: Taken) -> None:
        found = jax.device_get({name: taken.metrics[name] for name in ("loss", "grad_norm")})
        self.loss, norm = float(found["loss"]), float(found["grad_norm"])
        if not np.isfinite(self.loss) or not np.isfinite(norm):
            raise UserError(
                f"stopped: step {taken.step} has loss {self.loss} and gradient norm {norm} on "
                f"{', '.join(taken.patients)}; the last good checkpoint is {self._last_good()}"
            )
