"""The train step: one pure function of (state, batch, key), compiled once for the whole mesh."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from mstg_jax.config import OptimConfig
from mstg_jax.methods import Method
from mstg_jax.methods.base import Batch, Turn
from mstg_jax.methods.platform import compiler_options
from mstg_jax.training.state import TrainState

Metrics = dict[str, Array]
Loss = Callable[[nnx.State], tuple[Array, Metrics]]
Updated = tuple[Any, PyTree, Metrics]  # weights, the optimiser's state
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
    folds its number in. metrics: loss, its parts and grad_norm, means over the whole batch; of a
    method's turns loss and grad_norm are the last one's.
    """
    turns = getattr(method, "turns", ())

    def update(loss: Loss, params: nnx.State, opt_state: PyTree) -> Updated:
        """One step of the optimiser on weights that the loss is a function of."""

        def value(params: nnx.State) -> tuple[Array, Metrics]:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # models/mamba.py asks for it
                return loss(params)

        (total, parts), gradients = jax.value_and_grad(value, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats
            updates, opt_state = optimiser.update(gradients, opt_state, params)
        updated = optax.apply_updates(params, updates)
        return updated, opt_state, {"loss": total, **parts, "grad_norm": optax.tree.norm(gradients)}

    def in_turns(params: nnx.State, opt_states: PyTree, batch: Batch, key: PRNGKeyArray) -> Updated:
        metrics, after = {}, []
        for turn, opt_state in zip(turns, opt_states, strict=True):

            def loss(part: nnx.State, turn: Turn = turn, rest: nnx.State = params):
                return turn.loss(nnx.merge(graph, _replaced(rest, turn, part)), batch, key)

            part, opt_state, found = update(loss, params[turn.part], opt_state)
            params, metrics = _replaced(params, turn, part), metrics | found
            after.append(opt_state)
        return params, tuple(after), metrics

    def step(state: TrainState, batch: Batch, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        if turns:
            params, opt_state, metrics = in_turns(state.params, state.opt_state, batch, key)
        else:
            params, opt_state, metrics = update(
                lambda params: method.loss(nnx.merge(graph, params), batch, key),
                state.params,
                state.opt_state,
            )
        # The average of the first steps is short, so that it does not remember the initial weights.
        done = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema, (1 + done) / (10 + done))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
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


def _replaced(params: nnx.State, turn: Turn, part: nnx.State) -> nnx.State:
    whole = jax.tree.map(lambda x: x, params)
    whole[turn.part] = part
    return whole
