"""What all commands have in common: how they end, what they print, and how they read paths."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mstg_jax import console
from mstg_jax.command import SMALLER, command
from mstg_jax.config import UserError
from mstg_jax.data.nifti import DataError
from mstg_jax.files import usable, writing

ROOT = Path(__file__).parents[1]


def ended(main, *argv: str) -> int:
    return command("do.py")(main)(argv)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("--frames is 1"), "do.py: --frames is 1\n"),
        (DataError("patient001: ES is missing"), "do.py: patient001: ES is missing\n"),
        (FileNotFoundError("x is not a run"), "do.py: x is not a run\n"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\n0x0: malloc"),
            f"do.py: RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes. {SMALLER}\n",
        ),
        (PermissionError(13, "Permission denied", "/x"), "do.py: Permission denied (/x)\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: Exception, said: str, capsys):
    def main(argv):
        raise error

    assert ended(main) == 1
    assert capsys.readouterr() == ("", said)


def test_other_errors_keep_their_traceback():
    def main(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ended(main)


def test_a_home_folder_is_meant_in_every_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ("~/a", "--out=~/b", "--json", "~/c", "a~b", "--x=a~", "--patient", "~")
    meant = []
    assert ended(lambda argv: meant.extend(argv) or 0, *given) == 0
    assert meant == [
        "/home/me/a", "--out=/home/me/b", "--json", "/home/me/c", "a~b", "--x=a~", "--patient",
        "/home/me",
    ]  # fmt: skip


def interrupted(main) -> tuple[int, float]:
    """Ctrl-C a moment after the start: exit code, and seconds from then to the end."""
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    return ended(main), time.monotonic() - start - 0.2


def test_ctrl_c_is_one_line(capsys):
    def main(argv):
        time.sleep(20)

    wakeup = signal.set_wakeup_fd(-1)
    code, seconds = interrupted(main)
    assert code == 130
    assert seconds < 1
    assert capsys.readouterr() == ("", "do.py: interrupted\n")
    assert signal.set_wakeup_fd(wakeup) == -1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def run(code: str, *, read: bool = True) -> tuple[int, str, str]:
    """Exit code, output and errors of a command in its own process, in a locale of ASCII."""
    program = f"""if True:
    import gc, hashlib, os, threading, time
    from mstg_jax.command import command, leave

    @command("do.py")
    def main(argv):
        {code}
        return 0

    leave(main([]))"""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | locale | {"PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    if not read:
        assert process.stdout is not None
        process.stdout.close()
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


def test_ctrl_c_ends_what_never_asks_python():
    """As XLA while it compiles: here a hash that takes minutes."""
    code = """threading.Timer(0.2, os.kill, (os.getpid(), 2)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)"""
    assert run(code) == (130, "", "do.py: interrupted\n")


def test_ctrl_c_ends_what_loses_it():
    """As in a callback of the garbage collector, whose exceptions Python only prints."""
    code = """gc.callbacks.append(lambda *_: os.kill(os.getpid(), 2))
        gc.collect()
        gc.callbacks.clear()
        time.sleep(60)"""
    assert run(code) == (130, "", "do.py: interrupted\n")


def test_ctrl_c_does_not_wait_for_a_thread_of_a_library():
    """JAX compiles in one, and Python would join it before it ends."""
    code = """threading.Timer(0.2, os.kill, (os.getpid(), 2)).start()
        threading.Thread(target=time.sleep, args=(60,)).start()
        time.sleep(60)"""
    start = time.monotonic()
    assert run(code) == (130, "", "do.py: interrupted\n")
    assert time.monotonic() - start < 30


def test_a_reader_that_has_left_ends_the_command_quietly():
    assert run("print('a line', flush=True)", read=False) == (141, "", "")
    assert run("print('a table', end='')", read=False) == (141, "", "")


def test_any_terminal_can_show_the_output():
    assert run(r"print('PSNR (dB) \u2191')") == (0, "PSNR (dB) \\u2191\n", "")


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/below"])
def test_a_folder_that_takes_no_results_is_refused_by_flag_path_and_reason(tmp_path, where: str):
    (tmp_path / "file").touch()
    folder = tmp_path / where
    with pytest.raises(UserError, match=rf"^--out {folder} cannot be written: [A-Z].* \({folder}"):
        usable("--out", folder)


def test_a_full_disk_is_named_by_its_flag():
    def fill() -> None:
        with writing("--json", "/dev/full"), open("/dev/full", "w", encoding="utf-8") as file:
            file.write("much")

    with pytest.raises(UserError, match=r"^--json /dev/full cannot be written: No space left on d"):
        fill()


def test_a_folder_of_results_is_made_and_left_empty(tmp_path):
    usable("--out", tmp_path / "new" / "folder")
    assert [p.name for p in tmp_path.rglob("*")] == ["new", "folder"]


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        ((), ["info", "warning"]),
        (("-q",), ["warning"]),
        (("--quiet", "--verbose"), ["warning"]),
        (("-v",), ["debug", "info", "warning", "library"]),
    ],
)
@pytest.mark.parametrize("process", [None, 0, 1])
def test_what_is_said_beside_the_result(flags, levels: list[str], process: int | None, capsys):
    """The result is on stdout, all else on stderr; of several processes the first says the most."""

    def main(argv):
        assert [*argv] == ["--seed", "1"]
        if process is not None:
            console.name_process(process, 2)
        own = logging.getLogger("mstg_jax.data")
        own.debug("inside")
        own.info("read")
        own.warning("left out")
        logging.getLogger("orbax").info("saved")
        print("the result")
        return 0

    assert ended(main, "--seed", *flags, "1") == 0
    texts = {"debug": "debug: inside", "info": "read", "warning": "warning: left out"}
    texts["library"] = "saved"
    index = "" if process is None else f"[{process}] "
    if process and not flags:
        levels = ["warning"]
    said = "".join(f"{index}{texts[level]}\n" for level in levels)
    assert capsys.readouterr() == ("the result\n", said)


def test_help_names_the_levels_too(capsys):
    def main(argv):
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        ended(main, "--help")
    assert capsys.readouterr().out == f"{console.HELP}\n"
