"""What a training run carries from step to step, and the optimiser."""

from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Int, PyTree

from mstg_jax.config import OptimConfig
from mstg_jax.methods import Method, new_model

Params: TypeAlias = Any  # an nnx.State; optax's functions are typed to return any tree


class TrainState(NamedTuple):
    """Plain arrays only, so that the step is a pure function of it."""

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: PyTree


def make_optimiser(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Adam on a warm-up, then a constant or cosine learning rate."""
    peak = config.learning_rate
    if config.decay == "cosine":
        rest = optax.cosine_decay_schedule(peak, max(1, steps - config.warmup))
    else:
        rest = optax.constant_schedule(peak)
    warmup = optax.linear_schedule(peak / max(1, config.warmup), peak, max(1, config.warmup - 1))
    rate = optax.join_schedules([warmup, rest], [config.warmup])
    chain = [optax.scale_by_adam(*config.betas), optax.scale_by_learning_rate(rate)]
    if config.clip > 0:
        chain.insert(0, optax.clip_by_global_norm(config.clip))
    return optax.chain(*chain)


def init_state(
    method: Method, optimiser: optax.GradientTransformation, seed: int
) -> tuple[nnx.GraphDef, TrainState]:
    """A new model, split once into its structure and its weights.

    If the method takes turns, each has its own state of the optimiser.
    """
    graph, params = new_model(method, seed)
    ema = jax.tree.map(jnp.copy, params)
    if turns := getattr(method, "turns", ()):
        opt_state = tuple(optimiser.init(params[turn.part]) for turn in turns)
    else:
        opt_state = optimiser.init(params)
    return graph, TrainState(jnp.zeros((), jnp.int32), params, ema, opt_state)


def parameter_count(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
