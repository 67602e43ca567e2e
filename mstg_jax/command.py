"""What all commands have in common; standard library only.

`~`, -q and -v in flags, output that any terminal can show, one line for what a user can mend, and
quiet ends by Ctrl-C and where the reader of a pipe has left.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from io import TextIOWrapper
from typing import Any, NoReturn

from mstg_jax import console
from mstg_jax.config import UserError
from mstg_jax.files import reason

INTERRUPTED, CLOSED = 130, 141
"""Exit codes, as shells report the signals INT and PIPE."""
GRACE = 2.0
"""Seconds after Ctrl-C in which Python must have been asked."""

SMALLER = (
    "Less is needed with a smaller --data.size or --train.batch, fewer --diffusion.frames, or "
    "--model.remat all."
)

Main = Callable[[Sequence[str]], int]


def command(name: str) -> Callable[[Main], Main]:
    """Decorates main(arguments) -> exit code, of the command that messages begin with."""

    def decorate(main: Main) -> Main:
        @wraps(main)
        def run(argv: Sequence[str]) -> int:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, TextIOWrapper):
                    stream.reconfigure(errors="backslashreplace", line_buffering=True)
            try:
                with _answered(name):
                    return _ended(name, main, console.set_up([_expanded(x) for x in argv]))
            except KeyboardInterrupt:
                return _say(name, "interrupted", INTERRUPTED)

        return run

    return decorate


def leave(code: int) -> NoReturn:
    """End the process; after an error at once: Python would wait for XLA's compiling thread, or
    end in a crash of it, and jax.distributed would wait for the other processes."""
    if code:
        os._exit(code)  # `_ended` has flushed stdout, and stderr keeps no whole line back
    sys.exit(code)


def _ended(name: str, main: Main, argv: Sequence[str]) -> int:
    try:
        try:
            return main(argv)
        except SystemExit:
            if {"-h", "--help"} & {*argv}:
                print(console.HELP)
            raise
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # what is left in the buffers goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return CLOSED
    except OSError as error:
        return _say(name, reason(error), 1)
    except UserError as error:
        return _say(name, str(error), 1)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _say(name, f"{str(error).splitlines()[0]} {SMALLER}", 1)


def _say(name: str, text: str, code: int) -> int:
    with suppress(OSError):
        print(f"{console.prefix()}{name}: {text}", file=sys.stderr)
    return code


def _expanded(argument: str) -> str:
    """`~/x` and `--flag=~/x` with the home folder: a shell leaves the latter as it is."""
    flag, equals, value = (
        argument.partition("=") if argument.startswith("--") else ("", "", argument)
    )
    return flag + equals + (os.path.expanduser(value) if value.startswith("~") else value)


@contextmanager
def _answered(name: str) -> Iterator[None]:
    """Ctrl-C ends the program also where Python is not asked, in a long call of XLA, and where
    KeyboardInterrupt is lost, in a callback of the garbage collector.

    A thread waits for the signal and gives Python, which cleans up, some time. Whoever takes the
    signal's descriptor away (training/stop.py) answers Ctrl-C alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()

    def watch() -> None:
        while received := os.read(reader, 1):
            if received[0] == signal.SIGINT and not ended.wait(GRACE):
                os.write(2, f"{name}: interrupted\n".encode())
                os._exit(INTERRUPTED)

    def unraisable(found: Any) -> None:
        if not issubclass(found.exc_type, KeyboardInterrupt):
            hook(found)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        if sys.unraisablehook is unraisable:
            sys.unraisablehook = hook
        os.close(writer)
        watcher.join()
        os.close(reader)
