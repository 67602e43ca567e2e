"""Checkpoints with orbax: the train state, whose step is the position in the data, and the
settings."""

import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EROFS
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from mstg_jax.config import Config, UserError, to_json
from mstg_jax.files import reason, writing
from mstg_jax.methods import Method
from mstg_jax.methods.base import Model
from mstg_jax.training.quiet import silence
from mstg_jax.training.state import Structure, TrainState, init_state, make_optimiser

log = logging.getLogger(__name__)
BEST = "psnr"
"""The score of a validation by which checkpoints are compared; more is better."""


class Checkpoints:
    """The checkpoints of one run, the newest ones and the best: `with Checkpoints(run) as
    checkpoints`, which at its end waits for the last save.

    Raises UserError that names the last good one when a checkpoint, or within the `with` any other
    file of the run, cannot be written. A save is complete or absent: orbax renames it into place.
    """

    def __init__(self, run: Path, structure: Structure, keep: int = 3, *, write: bool = True):
        """write: for training; else the folder stays as it is."""
        self.run, self._structure, self._keep, self._write = run, structure, keep, write
        self.folder = (run / "checkpoints").resolve()
        self._pending = 0

    def __enter__(self) -> "Checkpoints":
        silence()
        if self._write and jax.process_index() == 0:
            self._remove_unfinished()
        newest = LatestN(self._keep)
        best = BestN(get_metric_fn=_quality, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([newest, best]),
            best_fn=_quality,
            create=self._write,
        )
        with writing("--run", self.run):
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        refused = isinstance(error, OSError) and not isinstance(error, BrokenPipeError)
        try:
            self._wait()
        except UserError as failed:
            told = failed
        else:
            told = self._unwritten(f"--run {self.run}", error) if refused else None
        with suppress(Exception):  # it repeats what `_wait` has raised
            self._manager.close()
        if told is not None and (error is None or refused):
            raise told from error

    def _remove_unfinished(self) -> None:
        """A save that was refused may still be writing, in a thread that nobody can wait for."""
        for _ in range(50):
            unfinished = list(self.folder.glob("*.orbax-checkpoint-tmp*"))
            for path in unfinished:
                shutil.rmtree(path, ignore_errors=True)
            if not any(path.exists() for path in unfinished):
                return
            time.sleep(0.1)

    def last_good(self) -> Path | str:
        """The newest complete checkpoint."""
        with suppress(UserError):
            self._wait()
        return self._newest()

    def _newest(self) -> Path | str:
        step = self._manager.latest_step()
        return "none" if step is None else self.folder / str(step)

    def save(
        self, state: TrainState, config: Config, scores: Mapping[str, float] | None = None
    ) -> None:
        """Returns once the arrays are copied; writing goes on behind. scores: of its validation."""
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        named = self._structure.in_trees(state)
        items: dict[str, Any] = {
            "state": ocp.args.StandardSave(_plain(_placed(named, like=state.params))),
            "config": ocp.args.JsonSave(to_json(config)),
        }
        items["contents"] = ocp.args.JsonSave({"items": list(items), "crc32": _crc32(named)})
        self._wait()
        self._pending = step
        log.debug(f"saving step {step} below {self.folder}")
        known = dict(scores) if scores and BEST in scores else None
        self._told(
            lambda: self._manager.save(step, args=ocp.args.Composite(**items), metrics=known)
        )

    def _wait(self) -> None:
        self._told(self._manager.wait_until_finished)

    def _told(self, write: Callable[[], object]) -> None:
        """Raises UserError for whatever orbax and TensorStore raise."""
        try:
            write()
            return
        except Exception as error:
            told = self._unwritten(f"the checkpoint of step {self._pending}", error)
        raise told  # without theirs, whose frames hold tasks that asyncio would report as lost

    def _unwritten(self, what: str, error: BaseException | None) -> UserError:
        others = " (as it does where another process has ended)" if jax.process_count() > 1 else ""
        return UserError(
            f"{what} cannot be written: {_short(error)}{others}; the last good checkpoint is "
            f"{self._newest()}; once that is mended, continue with --resume --run {self.run}"
        )

    def best(self) -> TrainState:
        """The checkpoint with the best validation, on the host. Raises UserError if none has been
        validated, or it is damaged."""
        scores = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        validated = {step: _quality(found) for step, found in scores.items() if found}
        if not validated:
            raise UserError(f"no checkpoint in {self.folder} has been validated: leave --best out")
        step = max(validated, key=lambda step: validated[step])
        try:
            return self._read(step)
        except Exception as error:  # whatever orbax and TensorStore make of the bytes
            raise UserError(f"{self.folder / str(step)} is damaged: {_short(error)}") from error

    def restore(self) -> TrainState:
        """The newest sound checkpoint, on the host.

        Damaged ones that are newer are named in a warning and, to train on, put aside.

        Raises UserError if there is none, or none is sound.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._read(step)
            except Exception as error:  # whatever orbax and TensorStore make of the bytes
                damaged[step] = _short(error)
                continue
            self._put_aside(damaged, step)
            return state
        if damaged:
            found = "; ".join(f"{step} ({why})" for step, why in damaged.items())
            raise UserError(f"no checkpoint in {self.folder} can be read: {found}")
        raise UserError(
            f"no checkpoint in {self.folder}: the run ended before its first; train it anew"
        )

    def _read(self, step: int) -> TrainState:
        """Raises ValueError if the arrays are not those that were saved; orbax does not look."""
        like = self._structure.named
        template = jax.tree.map(lambda x: np.broadcast_to(x.dtype.type(0), x.shape), _plain(like))
        items: dict[str, Any] = {"state": ocp.args.StandardRestore(template)}
        folder = self.folder / str(step)
        if known := (folder / "contents").exists():
            items["contents"] = ocp.args.JsonRestore()
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        values = restored["state"]
        params, ema = (_filled(getattr(like, n), values[n]) for n in ("params", "ema"))
        state = TrainState(values["step"], params, ema, values["opt_state"])
        if known and _crc32(state) != restored["contents"]["crc32"]:
            raise ValueError("its arrays are not those that were saved")
        return self._structure.in_vectors(state)

    def _put_aside(self, damaged: dict[int, str], sound: int) -> None:
        """Training saves these steps again, and orbax nothing that is older than the newest."""
        for step, why in damaged.items():
            path = self.folder / str(step)
            moved = path.with_name(f"damaged-{step}-{time.strftime('%Y%m%d-%H%M%S')}")
            if jax.process_index() == 0:
                if self._write:
                    path.rename(moved)
                log.warning(
                    f"{path} is damaged ({why})"
                    + (f" and is now {moved.name}" if self._write else "")
                    + f"; {self.folder / str(sound)} is used"
                )
        if damaged and self._write:
            ocp.multihost.sync_global_processes("damaged checkpoints are put aside")
            self._manager.reload()


def load_model(
    run: Path, config: Config, method: Method, *, best: bool = False
) -> tuple[Model, int]:
    """The averaged weights of a run's newest sound checkpoint, or of its best, and its step.

    Raises UserError if there is no checkpoint, or none is sound.
    """
    optimiser = make_optimiser(config.optim, config.train.steps)
    structure, _ = init_state(method, optimiser, seed=0)
    with Checkpoints(run, structure, write=False) as checkpoints:
        state = checkpoints.best() if best else checkpoints.restore()
    return (structure.graph, structure.params(state.ema)), int(state.step)


def _quality(scores: Any) -> float:
    return float(scores[BEST])


def _placed(state: TrainState, like: Any) -> TrainState:
    """On the devices, as `like` is: of arrays on the host orbax loses what the disk refuses."""
    if not isinstance(like, jax.Array):
        return jax.tree.map(jax.device_put, state)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(like.sharding, x, x.shape), state
    )


def _plain(state: TrainState) -> dict[str, Any]:
    fields = state._asdict()
    plain = {name: nnx.to_pure_dict(fields[name]) for name in ("params", "ema")}
    return fields | plain


def _filled(like: nnx.State, values: dict[str, Any]) -> Any:
    state = jax.tree.map(lambda x: x, like)
    nnx.replace_by_pure_dict(state, values)
    return state


def _crc32(state: TrainState) -> int:
    """Of all arrays' bytes."""
    total = 0
    for leaf in jax.tree.leaves(state):
        total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, total)
    return total


def _short(error: BaseException | None) -> str:
    """What the system said, which TensorStore quotes within a long line, or the line's start."""
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError):
        return reason(error)
    text = str(error)
    if "tree structures do not match" in text:
        return "its weights have other names than those of the settings' network in this version"
    known = (os.strerror(code) for code in (ENOSPC, EDQUOT, EFBIG, EACCES, EROFS))
    said = next((words for words in known if words in text), None)
    return said or f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:120]
