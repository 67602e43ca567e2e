"""Processes that do the work of a command; standard library only."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

STOPPED = 75
"""Exit code of a training that was asked to stop, has saved, and goes on when it is resumed."""
PARENT = "MSTG_JAX_PARENT"
"""Names the descriptor that ends with the parent."""


def end_with_parent() -> None:
    """Of a child: SIGTERM to itself when its parent is gone, however that ended."""
    if (number := os.environ.pop(PARENT, None)) is None:
        return

    def watch(number: int) -> None:
        os.read(number, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, args=(int(number),), daemon=True).start()


class Children:
    """Runs one process at a time; Ctrl-C and SIGTERM go to it, and stop what would follow."""

    def __init__(self) -> None:
        self.stopped = False
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}
        self._wakeup = -1

    def __enter__(self) -> "Children":
        self._wakeup = signal.set_wakeup_fd(-1)  # mstg_jax.command would not wait for the child
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        signal.set_wakeup_fd(self._wakeup)

    def run(self, command: Sequence[str], descriptors: Mapping[str, int] | None = None) -> int:
        """Its exit code, or less than 0 after a signal; descriptors: of files that it inherits, and
        the variables that name them to it.

        In a group of its own, which a terminal's Ctrl-C does not reach: it would come twice.
        """
        if os.name != "posix":
            self._child = subprocess.Popen(command)
            return self._child.wait()
        reader, writer = os.pipe()  # whose end the child sees where this process is killed
        given = {**(descriptors or {}), PARENT: reader}
        self._child = subprocess.Popen(
            command,
            env=os.environ | {name: str(number) for name, number in given.items()},
            pass_fds=tuple(given.values()),
            start_new_session=True,
        )
        os.close(reader)
        try:
            return self._child.wait()
        finally:
            os.close(writer)

    def _forward(self, number: int, frame: object) -> None:
        self.stopped = True
        if self._child is not None:
            self._child.send_signal(number)
