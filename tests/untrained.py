"""A run that was never trained, as commands find it."""

from dataclasses import replace
from pathlib import Path

from mstg_jax import runs
from mstg_jax.config import PRESETS, Config
from mstg_jax.methods import make_method
from mstg_jax.training.checkpoint import Checkpoints
from mstg_jax.training.state import init_state, make_optimiser


def write_untrained(folder: Path) -> Config:
    """voxelmorph on the tiny phantom, in folder/run, with the cache in folder."""
    config = replace(PRESETS["demo-tiny"][1], method="voxelmorph", run=str(folder / "run"))
    config = replace(config, data=replace(config.data, cache=str(folder)))
    optimiser = make_optimiser(config.optim, config.train.steps)
    structure, state = init_state(make_method(config), optimiser, 0)
    with Checkpoints(runs.create(config), structure) as checkpoints:
        checkpoints.save(state, config)
    return config
