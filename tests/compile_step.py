"""Compile the model's train step for devices that are not here."""

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mstg_jax.config import PRESETS
from mstg_jax.methods import make_method
from mstg_jax.training.state import init_state, make_optimiser
from mstg_jax.training.step import make_train_step


def compiled_step(preset, devices):
    """Of one example per device."""
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    same, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    config = PRESETS[preset][1]
    method, optimiser = make_method(config), make_optimiser(config.optim, 10)
    structure, state = init_state(method, optimiser, 0)
    step = make_train_step(method, structure, config.optim, mesh)

    def shape(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=same)

    def batch(*axes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((len(devices), *axes), dtype, sharding=split)

    volume = (*config.data.size, 1)
    examples = {
        "ed": batch(*volume),
        "es": batch(*volume),
        "frames": batch(1, *volume),
        "gammas": batch(1),
        "fov": batch(*volume, dtype=jnp.bool_),
    }
    key, steps = shape(jax.random.key(0)), shape(jnp.zeros((), jnp.int32))
    return step.lower(jax.tree.map(shape, state), examples, key, steps).compile()
