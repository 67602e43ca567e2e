"""`train.py --sweep ...`: the cells one after the other, each in a process of its own."""

import hashlib
import json
import logging
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mstg_jax import files, runs
from mstg_jax.children import STOPPED, Children
from mstg_jax.cli import parse_train
from mstg_jax.config import Config, SettingsError, to_json
from mstg_jax.sweep.cells import Asked, Cell, cells
from mstg_jax.sweep.folder import claimed, finished, last_step, passed_over, remember

log = logging.getLogger(__name__)


def sweep(asked: Asked, program: str, start: Callable[[Config], int]) -> int:
    """All cells, or the one that is asked for; the exit code: 1 where one failed, 75 where it was
    stopped.

    program: the path of train.py. start: trains a run. Cells that are finished are passed over,
    those that broke off go on. Raises SettingsError before the first cell if any cannot work.
    """
    base = parse_train(asked.argv)
    if base.resume:
        raise SettingsError("--sweep goes on by itself where it broke off: leave --resume out")
    if base.cluster.joins:
        raise SettingsError(
            "--sweep trains each cell in one process: leave --cluster out, and start the same "
            "command on several machines"
        )
    found = cells(replace(base, run=None), asked.axes, asked.form)
    folder = Path(base.run) if base.run else _own_folder(base, found)
    for cell in found:
        _fits(cell)
    if asked.only_list:
        for cell in found:
            print(shlex.join(["python", program, *_of_cell(asked, folder, cell.name)]))
        return 0
    remember(folder, replace(base, run=None), found)
    if asked.cell is None:
        return _all(asked, program, folder, found)
    by_name = {cell.name: cell for cell in found}
    if asked.cell not in by_name:
        raise SettingsError(f"--sweep.cell {asked.cell} is none of {', '.join(by_name)}")
    return _one(folder, by_name[asked.cell], start)


def _own_folder(base: Config, found: Sequence[Cell]) -> Path:
    """The same for the same command, which so continues its sweep."""
    shown = json.dumps([to_json(replace(base, run=None)), [c.settings for c in found]])
    return runs.ROOT / f"{base.method}-sweep-{hashlib.sha256(shown.encode()).hexdigest()[:8]}"


def _fits(cell: Cell) -> None:
    from mstg_jax.methods import make_method

    try:
        make_method(cell.config)
    except SettingsError as error:
        raise SettingsError(f"--sweep: cell {cell.name} cannot work: {error}") from error


def _of_cell(asked: Asked, folder: Path, name: str) -> list[str]:
    """Arguments of train.py for one cell."""
    argv = [x for axis, values in asked.axes for x in ("--sweep", f"{axis}={','.join(values)}")]
    argv += [] if asked.form == "grid" else [f"--sweep.{asked.form}"]
    named = any(x == "--run" or x.startswith("--run=") for x in asked.argv)
    return [*asked.argv, *argv, *([] if named else ["--run", str(folder)]), "--sweep.cell", name]


def _one(folder: Path, cell: Cell, start: Callable[[Config], int]) -> int:
    run = folder / cell.name
    with claimed(folder, cell.name) as ours:
        if not ours:
            log.warning(f"cell {cell.name} is being trained by another process; left to it")
            return 0
        if finished(run, cell.config.train.steps):
            log.info(f"cell {cell.name} is finished")
            return 0
        resume = last_step(run) is not None
        if not resume:
            shutil.rmtree(run, ignore_errors=True)  # it ended before its first checkpoint
        return start(replace(cell.config, run=str(run), resume=resume))


def _all(asked: Asked, program: str, folder: Path, found: Sequence[Cell]) -> int:
    began, trained, stopped = time.monotonic(), 0, False
    with Children() as children:
        for number, cell in enumerate(found, 1):
            if finished(folder / cell.name, cell.config.train.steps):
                continue
            left = sum(not finished(folder / c.name, c.config.train.steps) for c in found)
            each = (time.monotonic() - began) / trained if trained else None
            rest = "" if each is None else f", about {each * left / 60:.0f} min"
            log.info(f"cell {number} of {len(found)}: {cell.name} ({left} left{rest})")
            ended = children.run([sys.executable, program, *_of_cell(asked, folder, cell.name)])
            trained += 1
            # By the user or the clock: it has not failed.
            if stopped := children.stopped or ended == STOPPED:
                break
            _note(folder, cell, ended)
    missing = [c.name for c in found if not finished(folder / c.name, c.config.train.steps)]
    failed = {name: how for name, how in passed_over(folder).items() if name in missing}
    print(f"{len(found) - len(missing)} of {len(found)} cells finished: {folder}")
    for name, how in failed.items():
        print(f"failed: {name}: {how}")
    if missing:
        print(f"left: {', '.join(missing)}; the same command goes on")
    else:
        print(f"compare with: python -m mstg_jax.sweep report {folder}")
    return 1 if failed else STOPPED if stopped else 0


def _note(folder: Path, cell: Cell, ended: int) -> None:
    path = folder / "failed" / cell.name
    with files.writing("--run", folder):
        path.unlink(missing_ok=True)
        if ended:
            how = signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
            path.parent.mkdir(exist_ok=True)
            files.write_text(path, how + "\n")
            log.warning(f"cell {cell.name} failed: {how}")
