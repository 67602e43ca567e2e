"""Without what orbax and its libraries print of a failure: thousands of lines, told in one."""

import gc
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

LIBRARIES = ("orbax", "asyncio", "tensorstore")
LOGGERS = ("absl", "asyncio")


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out their logs, and the tracebacks of their threads, callbacks and lost tasks.

    They come from threads at any time, so that this stands around all use of a manager.
    """
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook

    def uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not _theirs(trace):
            hooks[0](kind, error, trace)

    def unraisable(found: Any) -> None:
        if not _theirs(found.exc_traceback):
            hooks[1](found)

    def in_thread(found: Any) -> None:
        if not _theirs(found.exc_traceback):
            hooks[2](found)

    sys.excepthook, sys.unraisablehook, threading.excepthook = uncaught, unraisable, in_thread
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_not_theirs)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
            gc.collect()  # a lost task is reported when it is collected
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(_not_theirs)
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks


def _theirs(trace: TracebackType | None) -> bool:
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    return any(f"/{name}/" in file for file in files for name in LIBRARIES)


def _not_theirs(record: logging.LogRecord) -> bool:
    return not any(f"/{name}/" in record.pathname for name in LIBRARIES)
