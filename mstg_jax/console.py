"""What commands say beside their result: logging on stderr, set up here alone.

Modules take `logging.getLogger(__name__)`. A result (tables, the folders that were written) is
printed to stdout, which `-q` leaves as it is.
"""

import logging
import os
import sys

QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")
HELP = "-q says nothing but warnings, -v also what happens inside."
OURS = ("mstg_jax", "kernels")


class _Lines(logging.Formatter):
    """`level: message`, without the level where it is INFO, behind the index of the process where
    there are several."""

    prefix = ""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return self.prefix + level + text


class _Stderr(logging.StreamHandler):
    """On what sys.stderr is when a line comes."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_Lines())

    @property
    def stream(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stderr


def set_up(argv: list[str]) -> list[str]:
    """For one command: the level from -q and -v, and the arguments without them."""
    _Lines.prefix = ""
    root = logging.getLogger()
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        root.addHandler(_Stderr())
    quiet, verbose = (any(x in argv for x in names) for names in (QUIET, VERBOSE))
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    root.setLevel(logging.INFO if verbose and not quiet else logging.WARNING)
    return [x for x in argv if x not in QUIET + VERBOSE]


def name_process(index: int, count: int) -> None:
    """Lines begin with the index from now on; of what all would say, the first process says it."""
    if count == 1:
        return
    _Lines.prefix = f"[{index}] "
    if index:
        for name in OURS:
            own = logging.getLogger(name)
            if own.level == logging.INFO:
                own.setLevel(logging.WARNING)


def prefix() -> str:
    """What every line begins with."""
    return _Lines.prefix


def at_once(text: str) -> None:
    """A line, also within a signal's handler, where a stream may be in the middle of another."""
    os.write(2, f"{_Lines.prefix}{text}\n".encode(errors="backslashreplace"))
