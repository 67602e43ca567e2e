"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import signal
from types import FrameType, TracebackType

from mstg_jax import console


class StopRequest:
    """`with StopRequest() as stop: ... if stop.requested: save, leave`. A second one interrupts.

    From `listen` on: before the first step is done there is nothing to save.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}
        self._wakeup: int | None = None

    def __enter__(self) -> "StopRequest":
        return self

    def listen(self) -> None:
        """Take the signals over; a second call does nothing."""
        if self._wakeup is not None:
            return
        self._wakeup = signal.set_wakeup_fd(-1)  # mstg_jax.command would not wait for a long step
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._request)

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
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        name = signal.Signals(number).name
        console.at_once(f"\n{name}: stopping after this step; again to stop at once")
