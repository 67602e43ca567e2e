"""What a step takes beside what a device has: the largest batch, and an estimate of the time."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from mstg_jax.config import Config, SettingsError
from mstg_jax.devices import Device
from mstg_jax.plan.program import Program, compiled, with_batch

TRIES = 4
FULL = 0.9
"""Share of the memory above which no larger batch is looked for."""
PREALLOCATED = 0.75
"""Of a GPU's memory JAX takes this share, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""

log = logging.getLogger("mstg_jax.plan")


class Estimate(NamedTuple):
    """Seconds of a step at the data sheet's speed: no program is faster."""

    products: float
    memory: float
    exchange: float

    @property
    def seconds(self) -> float:
        return max(self.products, self.memory) + self.exchange

    @property
    def bound(self) -> str:
        return "memory" if self.memory > self.products else "products"


def estimate(program: Program, device: Device, precision: str) -> Estimate:
    """An all-reduce sends and receives twice what it reduces."""
    exchanged = sum(x.bytes for x in program.collectives)
    return Estimate(
        program.operations / device.peak(precision),
        program.traffic / device.bandwidth,
        4 * exchanged / device.interconnect,
    )


class Planner:
    """Compiles for devices, and knows what their memory holds."""

    def __init__(self, config: Config, devices: Sequence[Any], platform: str, device: Device):
        self._config, self._devices, self._platform = config, devices, platform
        self.limit = device.memory * (PREALLOCATED if platform == "cuda" else 1)
        space = config.mesh.space
        data = len(devices) // space if config.mesh.data == -1 else config.mesh.data
        self._unit = data * config.train.accumulate
        """Batches are multiples of it."""

    @property
    def asked(self) -> int:
        """Batch of the settings, or one example per device where that is too small."""
        return max(self._config.train.batch, self._unit)

    def program(self, batch: int) -> Program | None:
        """None if it does not fit."""
        log.info(f"compiling for a batch of {batch}")
        try:
            found = compiled(with_batch(self._config, batch), self._devices, self._platform)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
                raise
            return None
        return found if found.peak <= self.limit else None

    def largest(self, batch: int, program: Program) -> tuple[int, Program]:
        """From a batch that fits: memory grows evenly with it, so that two programs tell where it
        ends, and one more shows it."""
        if batch % self._unit:
            raise SettingsError(f"train.batch is {batch}, which is no multiple of {self._unit}")
        best, ceiling = (batch, program), None
        guess = 2 * batch
        for _ in range(TRIES):
            found = self.program(guess)
            if found is None:
                ceiling = guess
                guess = best[0] + (ceiling - best[0]) // 2
            else:
                before, best = best, (guess, found)
                each = max(1.0, (found.peak - before[1].peak) / (guess - before[0]))
                guess = best[0] + int((self.limit - found.peak) / each)
            guess -= guess % self._unit
            if ceiling is not None:
                guess = min(guess, ceiling - self._unit)
            if guess <= best[0] or best[1].peak >= FULL * self.limit:
                break
        return best
