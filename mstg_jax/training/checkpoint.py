"""Checkpoints with orbax: the train state, the settings, and the position in the data."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain
import jax
import orbax.checkpoint as ocp
from flax import nnx

from mstg_jax.config import Config, to_json
from mstg_jax.methods import Method
from mstg_jax.methods.base import Model
from mstg_jax.training.state import TrainState, init_state, make_optimiser

if TYPE_CHECKING:
    from collections.abc import Iterator


class Checkpoints:
    """The checkpoints of one run. A save is complete or absent: orbax renames it into place."""

    def __init__(self, run: Path, keep: int = 3):
        self.folder = (run / "checkpoints").resolve()
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
        )

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def latest_path(self) -> Path | str:
        return "none" if self.latest is None else self.folder / str(self.latest)

    def save(
        self, state: TrainState, config: Config, batches: "Iterator[Any] | None" = None
    ) -> None:
        """Returns once the arrays are copied; writing goes on behind."""
        step = int(state.step)
        if step == self.latest:
            return
        items: dict[str, Any] = {
            "state": ocp.args.StandardSave(_plain(state)),
            "config": ocp.args.JsonSave(to_json(config)),
        }
        if batches is not None:
            items["data"] = grain.checkpoint.CheckpointSave(batches)
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, like: TrainState, batches: "Iterator[Any] | None" = None) -> TrainState:
        """The newest checkpoint, with the shardings of `like`; `batches` moves to its position, if
        it has one: converted weights have none.

        Raises FileNotFoundError if there is no checkpoint.
        """
        if self.latest is None:
            raise FileNotFoundError(
                f"no checkpoint in {self.folder}: the run ended before its first; train it anew"
            )
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
        items: dict[str, Any] = {"state": ocp.args.StandardRestore(template)}
        if batches is not None and (self.folder / str(self.latest) / "data").exists():
            items["data"] = grain.checkpoint.CheckpointRestore(batches)
        restored = self._manager.restore(self.latest, args=ocp.args.Composite(**items))["state"]
        params, ema = (_filled(getattr(like, n), restored[n]) for n in ("params", "ema"))
        return TrainState(restored["step"], params, ema, restored["opt_state"])

    def close(self) -> None:
        """Wait for the last save."""
        self._manager.wait_until_finished()
        self._manager.close()


def load_model(run: Path, config: Config, method: Method) -> tuple[Model, int]:
    """The averaged weights of a run's newest checkpoint, and its step.

    Raises FileNotFoundError if there is no checkpoint.
    """
    checkpoints = Checkpoints(run)
    optimiser = make_optimiser(config.optim, config.train.steps)
    graph, like = init_state(method, optimiser, seed=0)
    state = checkpoints.restore(like)
    checkpoints.close()
    return (graph, state.ema), int(state.step)


def _plain(state: TrainState) -> dict[str, Any]:
    fields = state._asdict()
    plain = {name: nnx.to_pure_dict(fields[name]) for name in ("params", "ema")}
    return fields | plain


def _filled(like: nnx.State, values: dict[str, Any]) -> nnx.State:
    state = jax.tree.map(lambda x: x, like)
    nnx.replace_by_pure_dict(state, values)
    return state
