"""The train step: one pure function of (state, batch, key), compiled once for the whole mesh."""

from collections.abc import Callable

import jax
import optax
from flax import nnx
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from mstg_jax.config import OptimConfig
from mstg_jax.methods import Method
from mstg_jax.methods.base import Batch
from mstg_jax.methods.platform import compiler_options
from mstg_jax.training.state import TrainState

Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Metrics]]


def make_train_step(
    method: Method,
    graph: nnx.GraphDef,
    optimiser: optax.GradientTransformation,
    config: OptimConfig,
    mesh: Mesh,
) -> TrainStep:
    """state, metrics = step(state, batch, key): the batch split over the mesh's data axis.

    The state is replicated and donated: the caller's copy is gone. The key is the run's; each step
    folds its number in. metrics: loss, its parts and grad_norm, means over the whole batch.
    """

    def step(state: TrainState, batch: Batch, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)

        def loss(params: nnx.State) -> tuple[Array, Metrics]:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # models/mamba.py asks for it
                return method.loss(nnx.merge(graph, params), batch, key)

        (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats
            updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # The average of the first steps is short, so that it does not remember the initial weights.
        done = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema, (1 + done) / (10 + done))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        metrics = {"loss": value, **parts, "grad_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, params, ema, opt_state), metrics

    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(
        step,
        in_shardings=(replicated, split, replicated),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )
