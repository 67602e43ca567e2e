"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import os
import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from mstg_jax import console


class StopRequest:
    """`with StopRequest() as stop: ... if stop.reached(step): save, leave`. A second Ctrl-C
    interrupts.

    Of several processes any may be asked; JAX's preemption service hears SIGTERM from its start on,
    and finds a step that all of them reach.
    """

    def __init__(self) -> None:
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

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # the preemption service knows no other signal
        name = signal.Signals(number).name
        console.at_once(f"\n{name}: stopping after this step; again to stop at once")
