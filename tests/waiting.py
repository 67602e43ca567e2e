"""Waiting for what a process does."""

import subprocess
import time
from collections.abc import Callable, Sequence


def until(
    reached: Callable[[], bool], processes: Sequence[subprocess.Popen[str]], seconds: float = 200
) -> None:
    """Fails, with its output, if one of the processes ends before, or none gets there in time."""
    deadline = time.monotonic() + seconds
    while not reached():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
