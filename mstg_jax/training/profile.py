"""A trace of some steps, which TensorBoard and Perfetto open."""

import logging
from pathlib import Path

import jax

log = logging.getLogger(__name__)


class Profile:
    """`with Profile(run, first, count) as profile: ... profile.reached(step)` before each step.

    Traces `count` steps from number `first` on into the run's folder `profile`; none with 0.
    """

    def __init__(self, run: Path, first: int, count: int):
        self._folder, self._first, self._count = run / "profile", first, count
        self._last: int | None = None

    def __enter__(self) -> "Profile":
        return self

    def reached(self, step: int) -> None:
        """The step that comes next; of a run that is resumed later the first ones are traced."""
        if self._count and self._last is None and step >= self._first:
            self._last = step + self._count
            jax.profiler.start_trace(self._folder)
        elif step == self._last:
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._count = 0
        log.info(f"trace in {self._folder}: tensorboard --logdir {self._folder}")

    def __exit__(self, *_: object) -> None:
        if self._count and self._last is not None:
            self._stop()
