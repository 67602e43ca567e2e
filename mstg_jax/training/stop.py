"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import math
import os
import signal
import time
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from mstg_jax import console


class StopRequest:
    """`with StopRequest() as stop: ... if stop.reached(step): save, leave`. A second Ctrl-C
    interrupts.

    until: of time.monotonic, when the process must have left; a step that may last as long as the
    longest before it, and once more to save, is not begun.

    Of several processes any may be asked; JAX's preemption service hears SIGTERM from its start on,
    and finds a step that all of them reach.
    """

    def __init__(self, until: float = math.inf) -> None:
        self._until, self._longest = until, 0.0
        self._asked = time.monotonic()
        self._requested = False
        self._before: dict[int, object] = {}
        self._wakeup: int | None = None

    def __enter__(self) -> "StopRequest":
        return self

    def listen(self) -> None:
        """Take the signals over; a second call does nothing. Before the first step is done there is
        nothing to save."""
        if self._wakeup is not None:
            return
        self._wakeup = signal.set_wakeup_fd(-1)  # mstg_jax.command would not wait for a long step
        alone = jax.process_count() == 1
        for number in (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,):
            self._before[number] = signal.signal(number, self._request)

    def reached(self, step: int) -> bool:
        """Whether to save this step and leave: the same in all processes, which must ask at every
        step."""
        self._look_at_the_clock()
        if jax.process_count() == 1:
            return self._requested
        return multihost_utils.reached_preemption_sync_point(step)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._wakeup)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._asked)
        self._asked = now
        if now + 2 * self._longest > self._until and not self._requested:
            self._ask()
            console.at_once("\nthe time is over: stopping")

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._ask()
        name = signal.Signals(number).name
        console.at_once(f"\n{name}: stopping after this step; again to stop at once")

    def _ask(self) -> None:
        self._requested = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # the preemption service knows no other signal
