"""A new run that starts with the weights of another one."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from mstg_jax.config import Config, UserError
from mstg_jax.methods import make_method
from mstg_jax.training.checkpoint import load_model
from mstg_jax.training.state import Structure, TrainState

log = logging.getLogger(__name__)
NAMED = 8
"""Weights that were not taken, of which a line names so many."""


def with_weights_of(
    run: Path, config: Config, structure: Structure, state: TrainState
) -> TrainState:
    """The new state with the averaged weights of a run of these settings, as far as they have the
    same name and shape; what was not taken is said. Raises UserError if that is all of them, or
    there are none."""
    (_, weights), step = load_model(run, config, make_method(config))
    found = jax.tree.leaves_with_path(nnx.to_pure_dict(weights))
    stored = {_name(path): np.asarray(x) for path, x in found}
    own = structure.params(np.array(state.params))
    plain: Any = nnx.to_pure_dict(own)
    left: list[str] = []

    def taken(path: Any, x: np.ndarray) -> np.ndarray:
        other = stored.pop(_name(path), None)
        if other is not None and other.shape == x.shape:
            return other.astype(x.dtype)
        there = "not there" if other is None else f"{other.shape} there"
        left.append(f"{_name(path)} {x.shape}, {there}")
        return x

    count = len(jax.tree.leaves(plain))
    nnx.replace_by_pure_dict(own, jax.tree.map_with_path(taken, plain))
    if len(left) == count:
        raise UserError(f"--init {run}: none of its weights has the name and shape of one here")
    log.info(f"{count - len(left)} of {count} weights are those of {run}, step {step}")
    if left:
        log.warning(f"not of {run}, but new: {_listed(left)}")
    if stored:
        log.warning(f"of {run}, but not used: {_listed(list(stored))}")
    vector = structure.vector(own)
    return state._replace(params=vector, ema=vector.copy())


def _name(path: Any) -> str:
    return ".".join(str(getattr(entry, "key", entry)) for entry in path)


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f"; and {more} more" if more > 0 else "")
