"""The folder of a sweep: what its cells are, how far each is, and who works on it.

runs/acdc-small-sweep-1a2b3c4d/
    sweep.json           the settings that all cells share, and what each changes
    mixer=none,seed=0/   a cell's run
    claims/              the cells that are being trained, and by whom
    failed/              what a failed one said at the end
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from mstg_jax import files
from mstg_jax.cli import RESUMABLE
from mstg_jax.config import Config, SettingsError, differences, from_json, to_json
from mstg_jax.sweep.cells import Cell

FILE = "sweep.json"
MAY_DIFFER = set(RESUMABLE) - {"train.steps"}
"""Settings that machines may have their own of, and that may change when a sweep is continued."""
BEAT, STALE = 20.0, 120.0
"""Seconds between two signs of life, and after which a machine that gives none counts as gone."""


def remember(folder: Path, base: Config, cells: Sequence[Cell]) -> None:
    """Adds the cells to the folder's; of machines that begin together, all say the same.

    Raises SettingsError if the folder's cells share other settings, or it holds something else.
    """
    shown = {cell.name: cell.settings for cell in cells}
    with files.writing("--run", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).exists() and any(folder.iterdir()):
            raise SettingsError(f"--run {folder} is no sweep, but it is not empty: give another")
        if files.create_text(folder / FILE, _text(base, shown)):
            return
        known, before = read(folder)
        changed = [d for d in differences(known, base) if d.split(":")[0] not in MAY_DIFFER]
        changed += [f"cell {n}: {before[n]}" for n in shown if before.get(n, shown[n]) != shown[n]]
        if changed:
            raise SettingsError(
                f"--run {folder} holds a sweep of other settings ({'; '.join(changed)}); give it "
                "another folder, or leave those flags out"
            )
        if not shown.keys() <= before.keys():
            files.write_text(folder / FILE, _text(known, before | shown))


def _text(base: Config, cells: dict[str, dict[str, str]]) -> str:
    return json.dumps({"base": to_json(base), "cells": cells}, indent=1) + "\n"


def read(folder: Path) -> tuple[Config, dict[str, dict[str, str]]]:
    """The shared settings, and those of each cell. Raises SettingsError naming the file."""
    path = folder / FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return from_json(stored["base"]), stored["cells"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(f"{path} cannot be read as a sweep: {error}") from error


def last_step(run: Path) -> int | None:
    """Of its newest whole checkpoint; orbax renames them into place. None without any."""
    steps = [int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdecimal()]
    return max(steps, default=None)


def finished(run: Path, steps: int) -> bool:
    return (last_step(run) or 0) >= steps


def passed_over(folder: Path) -> dict[str, str]:
    """The cells that failed when they were last tried, and how they ended."""
    return {p.name: p.read_text(encoding="utf-8").strip() for p in (folder / "failed").glob("*")}


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether the cell is ours meanwhile: others leave it until we end, or give no sign of life."""
    path = folder / "claims" / name
    path.parent.mkdir(exist_ok=True)
    mine = f"{socket.gethostname()} {os.getpid()}"
    if not files.create_text(path, mine):
        if _alive(path):
            yield False
            return
        with suppress(FileNotFoundError):
            path.unlink()
        if not files.create_text(path, mine):
            yield False
            return
    done = Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    Thread(target=beat, daemon=True).start()
    try:
        yield True
    finally:
        done.set()
        with suppress(OSError):
            path.unlink()


def _alive(path: Path) -> bool:
    """Whoever claims a cell gives signs of life; on this machine its process is looked for, too."""
    try:
        host, _, process = path.read_text(encoding="utf-8").partition(" ")
        age = time.time() - path.stat().st_mtime
    except OSError:
        return False
    if host == socket.gethostname() and process.isdecimal():
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return age < STALE
