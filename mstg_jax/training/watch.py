"""The numbers of a run's steps, asked of the device as late as they may be."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    """What steps cost, mean since it was asked last.

    batch: examples of a step on all devices. operations: of a step on all devices, see step.py;
    peak: those that a device can do in a second, None where that is not known.
    """

    def __init__(self, step: int, batch: int, operations: float = 0.0, peak: float | None = None):
        self._batch, self._operations, self._peak = batch, operations, peak
        self._step, self._time = step, time.perf_counter()
        self._waited = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what fetches the data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Around what is no part of a step: validation, saving."""
        start = time.perf_counter()
        yield
        self._time += time.perf_counter() - start

    def values(self, step: int) -> dict[str, float]:
        """seconds: of a step. waiting: the share of them in which data was waited for. memory: GB,
        the most until now, of the device that has used most where devices tell, else of the
        process. tflops: 10^12 operations per second of all devices; peak_share: of what they can
        do."""
        now, steps = time.perf_counter(), max(1, step - self._step)
        seconds = (now - self._time) / steps
        waiting = self._waited / steps / seconds
        self._step, self._time, self._waited = step, now, 0.0
        told = [device.memory_stats() or {} for device in jax.local_devices()]
        used = max((stats.get("peak_bytes_in_use", 0) for stats in told), default=0)
        found = {
            "seconds": seconds,
            "examples_per_second": self._batch / seconds,
            "waiting": min(1.0, waiting),
            "memory": (used or _of_process()) / 1e9,
            "tflops": self._operations / seconds / 1e12,
        }
        if self._peak:
            found["peak_share"] = self._operations / seconds / (self._peak * jax.device_count())
        return {name: value for name, value in found.items() if value or name == "waiting"}


def _of_process() -> int:
    """Bytes; 0 where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
