"""The numbers of a run's steps, asked of the device as late as they may be."""

import sys
import time
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

    def check(self) -> Taken:
        """The newest step; waits for it."""
        if self._newest is None:
            raise RuntimeError("no step has been added")
        self._check(self._newest)
        return self._newest

    def values(self) -> dict[str, float]:
        """All numbers of the newest step; waits for it."""
        return {name: float(x) for name, x in jax.device_get(self.check().metrics).items()}

    def _check(self, taken: Taken) -> None:
        found = jax.device_get({name: taken.metrics[name] for name in ("loss", "grad_norm")})
        self.loss, norm = float(found["loss"]), float(found["grad_norm"])
        if not np.isfinite(self.loss) or not np.isfinite(norm):
            raise UserError(
                f"stopped: step {taken.step} has loss {self.loss} and gradient norm {norm} on "
                f"{', '.join(taken.patients)}; the last good checkpoint is {self._last_good()}"
            )


class Pace:
    """Seconds of a step, mean since it was asked last, and the most memory until then."""

    def __init__(self, step: int):
        self._step, self._time = step, time.perf_counter()

    def values(self, step: int) -> dict[str, float]:
        """memory: GB, of the device that has used most where devices tell, else of the process."""
        now = time.perf_counter()
        seconds = (now - self._time) / max(1, step - self._step)
        self._step, self._time = step, now
        told = [device.memory_stats() or {} for device in jax.local_devices()]
        used = max((stats.get("peak_bytes_in_use", 0) for stats in told), default=0)
        found = {"seconds": seconds, "memory": (used or _of_process()) / 1e9}
        return {name: value for name, value in found.items() if value}


def _of_process() -> int:
    """Bytes; 0 where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
