"""What a training run carries from step to step, and the optimiser."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Int, PyTree

from mstg_jax.config import OptimConfig
from mstg_jax.methods import Method, new_model

Params: TypeAlias = Any  # an nnx.State; optax's functions are typed to return any tree
Vector: TypeAlias = Float[Array, " n"]


class TrainState(NamedTuple):
    """Plain arrays only, so that the step is a pure function of it.

    All weights are one vector, as are their averages and each moment of the optimiser: updates of
    hundreds of small arrays, each its own loop, were a third of the step's compilation on CPU.
    """

    step: Int[Array, ""]
    params: Vector
    ema: Vector
    opt_state: PyTree


@dataclass(frozen=True, eq=False)
class Structure:
    """Of a model: how the vectors of a `TrainState` are its weights.

    named: a state with trees of shapes in place of its vectors; checkpoints hold such trees.
    """

    graph: nnx.GraphDef
    named: TrainState

    def params(self, vector: Vector | Float32[np.ndarray, " n"]) -> nnx.State:
        """The weights by their names."""
        named: Any = self.named.params
        return split(named, vector)

    def vector(self, params: Params) -> Float32[np.ndarray, " n"]:
        """The inverse of `params`, on the host."""
        return _on_host(params)

    def in_trees(self, state: TrainState) -> TrainState:
        """A copy on the host with every weight by its name."""
        host = jax.tree.map(np.array, state)
        return jax.tree.map(
            lambda named, x: split(named, x) if _is_tree(named) else x,
            self.named,
            host,
            is_leaf=_is_tree,
        )

    def in_vectors(self, state: TrainState) -> TrainState:
        """The inverse of `in_trees`."""
        return jax.tree.map(
            lambda x: _on_host(x) if _is_tree(x) else np.asarray(x), state, is_leaf=_is_tree
        )


def as_vector(params: Params) -> Vector:
    """All weights one after the other."""
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(params)])


def _on_host(params: Params) -> Float32[np.ndarray, " n"]:
    """`as_vector`, without a program for every shape."""
    parts = [np.asarray(x).reshape(-1) for x in jax.tree.leaves(params)]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def split(named: nnx.State, vector: Any) -> nnx.State:
    """A vector (n,) as arrays of the names and shapes of `named`."""
    leaves, tree = jax.tree.flatten(named)
    ends = np.cumsum([leaf.size for leaf in leaves]).tolist()
    parts = [
        vector[end - leaf.size : end].reshape(leaf.shape)
        for end, leaf in zip(ends, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, parts)


def _is_tree(x: Any) -> bool:
    return isinstance(x, nnx.State)


def make_optimiser(config: OptimConfig, steps: ArrayLike) -> optax.GradientTransformation:
    """Adam on a warm-up, then a constant or cosine learning rate.

    steps: the length of the run, which the program of a step takes as an argument: a longer run is
    no other program.
    """

    def rate(count: ArrayLike) -> Float[Array, ""]:
        done = jnp.asarray(count, jnp.float32)
        warm = jnp.minimum(1.0, (done + 1) / max(1, config.warmup))
        if config.decay == "constant":
            return config.learning_rate * warm
        rest = jnp.maximum(1.0, jnp.asarray(steps, jnp.float32) - config.warmup)
        share = jnp.clip((done - config.warmup) / rest, 0.0, 1.0)
        return config.learning_rate * warm * 0.5 * (1 + jnp.cos(np.pi * share))

    chain = [optax.scale_by_adam(*config.betas), optax.scale_by_learning_rate(rate)]
    if config.clip > 0:
        chain.insert(0, optax.clip_by_global_norm(config.clip))
    return optax.chain(*chain)


def init_state(
    method: Method, optimiser: optax.GradientTransformation, seed: int
) -> tuple[Structure, TrainState]:
    """A new model, split once into its structure and its weights.

    If the method takes turns, each has its own state of the optimiser; its memory is kept beside.
    """
    graph, params = new_model(method, seed)

    def state_of(form: Callable[[nnx.State], Any]) -> TrainState:
        """With all weights, and those of each turn, in this form."""
        of_turns = tuple(optimiser.init(form(params[turn.part])) for turn in method.turns)
        opt_state = of_turns or optimiser.init(form(params))
        if method.memory:
            opt_state = (opt_state, method.memory)
        return TrainState(jnp.zeros((), jnp.int32), form(params), form(params), opt_state)

    named = jax.eval_shape(partial(state_of, lambda params: params))
    return Structure(graph, named), state_of(_on_host)


def parameter_count(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
