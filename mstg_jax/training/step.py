"""The train step: one pure function of (state, batch, key), compiled once for the whole mesh."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from mstg_jax.config import OptimConfig, Precision
from mstg_jax.methods import Method
from mstg_jax.methods.base import Batch, Keys, Turn
from mstg_jax.methods.platform import compiler_options, products_in
from mstg_jax.training.operations import operations
from mstg_jax.training.sharding import batch_shardings
from mstg_jax.training.state import (
    Structure,
    TrainState,
    Vector,
    as_vector,
    make_optimiser,
    split,
)

Metrics = dict[str, Array]
Result = TypeVar("Result")
Weights = TypeVar("Weights")
Examples = tuple[Batch, Keys]
Loss = Callable[[nnx.State, Any, Examples], tuple[Array, Metrics]]  # weights, method's memory
Updated = tuple[Vector, PyTree, Metrics]  # weights, the optimiser's state
TrainStep = Callable[[TrainState, Batch, PRNGKeyArray, ArrayLike], tuple[TrainState, Metrics]]


def make_train_step(
    method: Method,
    structure: Structure,
    config: OptimConfig,
    mesh: Mesh,
    accumulate: int = 1,
    precision: Precision = "float32",
) -> TrainStep:
    """state, metrics = step(state, batch, key, steps): the batch split over the mesh (sharding.py).

    The state is replicated and donated: the caller's copy is gone. The key is the run's; each step
    folds its number in. steps is the length of the run. accumulate: pieces of the batch that are
    computed one after the other, for the same result in less memory. precision: of products of
    weights. metrics: loss, its parts and grad_norm, means over the whole batch; of a method's turns
    loss and grad_norm are those of the last one.
    """
    turns, graph = method.turns, structure.graph

    def update(
        optimiser: optax.GradientTransformation,
        loss: Loss,
        params: nnx.State,
        opt_state: PyTree,
        memory: Any,
        examples: Examples,
    ) -> Updated:
        """One step of the optimiser on weights that the loss is a function of."""

        def slope(given: tuple[nnx.State, Any], examples: Examples) -> tuple[Vector, Metrics]:
            (total, parts), found = jax.value_and_grad(loss, has_aux=True)(*given, examples)
            return as_vector(found), {"loss": total, **parts}

        with products_in(precision):
            gradient, metrics = over_devices(slope, mesh, accumulate)((params, memory), examples)
        weights = as_vector(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats
            updates, opt_state = optimiser.update(gradient, opt_state, weights)
            weights: Any = optax.apply_updates(weights, updates)
        return weights, opt_state, metrics | {"grad_norm": jnp.linalg.norm(gradient)}

    def step(
        state: TrainState, batch: Batch, key: PRNGKeyArray, steps: Int[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        keys = jax.random.split(jax.random.fold_in(key, state.step), len(batch["ed"]))
        optimiser, params = make_optimiser(config, steps), structure.params(state.params)
        if turns:
            metrics, after = {}, []
            for turn, opt_state in zip(turns, state.opt_state, strict=True):

                def loss(
                    part: nnx.State,
                    memory: Any,
                    given: Examples,
                    turn: Turn = turn,
                    rest: nnx.State = params,
                ):
                    del memory  # of methods without turns
                    return turn.loss(nnx.merge(graph, _replaced(rest, turn, part)), *given)

                part, opt_state, found = update(
                    optimiser, loss, params[turn.part], opt_state, (), (batch, keys)
                )
                params = _replaced(params, turn, split(params[turn.part], part))
                metrics |= found
                after.append(opt_state)
            weights, opt_state = as_vector(params), tuple(after)
        else:
            own, memory = state.opt_state if method.memory else (state.opt_state, ())

            def whole(params: nnx.State, memory: Any, given: Examples) -> tuple[Array, Metrics]:
                batch, keys = given
                return method.loss(nnx.merge(graph, params), batch | {"memory": memory}, keys)

            weights, opt_state, metrics = update(
                optimiser, whole, params, own, memory, (batch, keys)
            )
            if method.memory:
                opt_state = (opt_state, method.remembered(memory, metrics.pop("seen")))
        # The average of the first steps is short, so that it does not remember the initial weights.
        done = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema, (1 + done) / (10 + done))
        ema = decay * state.ema + (1 - decay) * weights
        return TrainState(state.step + 1, weights, ema, opt_state), metrics

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(replicated, batch_shardings(mesh), replicated, replicated),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )


def over_devices(
    function: Callable[[Weights, Examples], Result], mesh: Mesh, pieces: int
) -> Callable[[Weights, Examples], Result]:
    """Mean of the function's arrays over the mesh's axis data, each with its own examples.

    What is exchanged are the results alone. Left to the compiler it would be gradients as they
    arise, of kernels laid out with zeros among them: 2.4 times as many.
    """

    def own(weights: Weights, examples: Examples) -> Result:
        return mean_over_pieces(lambda piece: function(weights, piece), examples, pieces)

    def shared(weights: Weights, examples: Examples) -> Result:
        return jax.tree.map(lambda x: jax.lax.pmean(x, "data"), own(weights, examples))

    # Slices, where they are shared, are the compiler's matter, and models/mamba.py's.
    if mesh.shape["data"] == 1:

        def within(weights: Weights, examples: Examples) -> Result:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return own(weights, examples)

        return within
    return jax.shard_map(
        shared,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
        axis_names={"data", "space"} if mesh.shape["space"] == 1 else {"data"},
        check_vma=False,
    )


def mean_over_pieces(
    function: Callable[[Examples], Result], examples: Examples, count: int
) -> Result:
    """Mean of the function's arrays over `count` pieces of the examples, one after the other."""
    if count == 1:
        return function(examples)

    def add(total: Result, piece: Examples) -> tuple[Result, None]:
        return jax.tree.map(jnp.add, total, function(piece)), None

    apart = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), examples)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], apart))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, nothing, apart)
    return jax.tree.map(lambda x: x / count, total)


def _replaced(params: nnx.State, turn: Turn, part: nnx.State) -> nnx.State:
    whole = jax.tree.map(lambda x: x, params)
    whole[turn.part] = part
    return whole


def compiled_step(
    step: Any, state: TrainState, batch: dict[str, jax.ShapeDtypeStruct], key: PRNGKeyArray
) -> tuple[TrainStep, float]:
    """The program of `make_train_step`'s step for batches of these shapes, and its `operations`."""
    traced = step.trace(state, batch, key, np.int32(0))
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    return traced.lower().compile(), operations(traced.jaxpr.jaxpr, platform)
