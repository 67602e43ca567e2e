"""Compile the model's train step for devices that are not here."""

from dataclasses import replace

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mstg_jax.config import PRESETS
from mstg_jax.methods import make_method
from mstg_jax.training.sharding import batch_shapes, make_mesh
from mstg_jax.training.state import init_state, make_optimiser
from mstg_jax.training.step import make_train_step


def compiled_step(preset, devices):
    """Of one example per device."""
    config = PRESETS[preset][1]
    config = replace(config, train=replace(config.train, batch=len(devices)))
    mesh = make_mesh(config, devices)
    same = NamedSharding(mesh, PartitionSpec())
    method, optimiser = make_method(config), make_optimiser(config.optim, 10)
    structure, state = init_state(method, optimiser, 0)
    step = make_train_step(method, structure, config.optim, mesh)

    def shape(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=same)

    examples = batch_shapes(config, method.frames, mesh)
    key, steps = shape(jax.random.key(0)), shape(np.int32(0))
    return step.lower(jax.tree.map(shape, state), examples, key, steps).compile()
