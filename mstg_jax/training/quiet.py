"""Without what orbax and its libraries print of a failure: thousands of lines, told in one."""

import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

LIBRARIES = ("orbax", "asyncio", "tensorstore")


class _Hook:
    """Leaves theirs out: callbacks of TensorStore's threads, and tasks that asyncio lost."""

    def __init__(self, before: Callable[[Any], object]):
        self._before = before

    def __call__(self, found: Any) -> None:
        code = getattr(found.object, "cr_code", None)
        files = [frame.filename for frame in traceback.extract_tb(found.exc_traceback)]
        if not _theirs(*files, code.co_filename if code else ""):
            self._before(found)


def silence() -> None:
    """From now on: their threads report at any time, also once the failure is told."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_theirs)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


def _not_theirs(record: logging.LogRecord) -> bool:
    return not _theirs(record.pathname)


def _theirs(*files: str) -> bool:
    return any(f"/{name}/" in file for file in files for name in LIBRARIES)
